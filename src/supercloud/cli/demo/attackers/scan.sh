#!/bin/bash
# An attacker's tool: nmap over the guest's own network ($1: its CIDR), again and again. Its own word is on the
# guest's console, opened for each line: getty hangs up whoever had it open before.
exec >/dev/null 2>&1
until own=$(hostname -I) && [ -n "${own// /}" ]; do sleep 1; done
version=$(nmap --version | sed -n 's/^Nmap version \([0-9.]*\).*/\1/p')
for round in $(seq 1 400); do
    began=$(date +%s.%N)
    found=$(nmap -n -T4 -F --exclude "${own// /}" -oG - "$1")
    up=$(grep -c 'Status: Up' <<<"$found")
    open=$(grep -o '/open/' <<<"$found" | wc -l)
    echo "demo-scan {\"began\": $began, \"nmap\": \"$version\", \"up\": $up, \"open\": $open}" >/dev/ttyS0
    sleep 2
done
