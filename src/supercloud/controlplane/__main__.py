"""`python -m supercloud.controlplane`."""

from supercloud.controlplane.main import main

raise SystemExit(main())
