#!/bin/bash
# From nothing to one cloud over two domains, a team's cloud within it, and a network that the team may reach.
#
#   examples/two-clouds.sh IMAGE [PUBLIC_KEY]
#   examples/two-clouds.sh --end
#
# IMAGE is a disk that boots by BIOS and knows cloud-init, as Debian's genericcloud images do; PUBLIC_KEY says
# who may log in to the team's instance. Run it again, and what is there stays as it is. --end takes away all of
# it but the control plane's state. `supercloud` has to be on the PATH.
set -euo pipefail

if [ "${1:-}" = --end ]; then
    for cloud in team mine; do
        supercloud cloud show "$cloud" > /dev/null 2>&1 || continue
        printf 'version: 1\ncloud: {name: %s}\n' "$cloud" | supercloud apply -f - --prune --yes
        supercloud cloud rm "$cloud"
    done
    supercloud down
    exit
fi

image=${1:?"usage: $0 IMAGE [PUBLIC_KEY]"}
key=${2:-$HOME/.ssh/id_ed25519.pub}
[ -r "$key" ] || { echo "$key is not there: ssh-keygen -t ed25519 makes one" >&2; exit 2; }

supercloud up
supercloud image show debian > /dev/null 2>&1 || supercloud image import "$image" --name debian

# The cloud, over both domains: a web server in the north, and a blanket in the south that it can move to.
supercloud apply -f - --yes << END
version: 1
cloud: {name: mine}
providers:
  north: {kind: qemu}
  south: {kind: qemu}
blankets:
  n1: {provider: north, memory: 2G, vcpus: 1}
  s1: {provider: south, memory: 2G, vcpus: 1}
networks:
  web: {cidr: 10.20.0.0/24}
instances:
  server:
    image: debian
    blanket: n1
    memory: 256M
    networks: [web]
    userData: |
      #cloud-config
      runcmd: [[systemd-run, python3, -m, http.server, "8080", --directory, /srv]]
END

# The team's cloud, within it: a slice of its quota, and a blanket of its own. Who has the first cloud reaches
# into this one; who has only this one (cloud create --owner) never out of it.
supercloud apply -f - --yes << END
version: 1
cloud:
  name: team
  in: mine
  quota: {vcpus: 2, memory: 1G, disk: 20G, blankets: 1, domains: 1}
blankets:
  t1: {provider: south, memory: 2G, vcpus: 1}
networks:
  jobs: {cidr: 10.30.0.0/24}
instances:
  job:
    image: debian
    blanket: t1
    memory: 256M
    networks: [jobs]
    sshKeys: ["$(cat "$key")"]
END

# Nothing of one cloud reaches the other until the first lets it: from the jobs to the web server, not back,
# for a day, and to be taken back at any time.
granted=$(supercloud trust ls --cloud mine --kind connect --state active -o json)
[ "$granted" != "[]" ] ||
    supercloud trust grant mine team --kind connect --network web --to-network jobs --until 1d

supercloud blanket ls
supercloud vm ls
supercloud trust graph
cat << END

The team's instance reaches the web server, and nothing else of that cloud. Log in to it, and ask; the server's
address is the 10.20.0.x of the list above:
  supercloud vm ssh job --cloud team
  python3 -c 'import urllib.request as u; print(u.urlopen("http://10.20.0.2:8080/").status)'
Move the server to the other domain while it is asked, and look at both in a browser:
  supercloud vm migrate server --cloud mine --to s1
  supercloud web
Take the trust back, and the connection is cut (trust ls has its id):
  supercloud trust revoke ID
END
