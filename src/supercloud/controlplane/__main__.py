"""`python -m supercloud.controlplane`."""

import supercloud.logs  # noqa: F401 - first: it loads structlog as a program needs it
from supercloud.controlplane.main import main

raise SystemExit(main())
