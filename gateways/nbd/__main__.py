"""`python -m gateways.nbd`: serve images over NBD; `store nbd` runs it."""

import sys

from gateways.nbd.launch import main
from store.errors import ConfigError, StoreError

try:
    main(sys.argv[1:])
except (ConfigError, StoreError) as error:
    print(f"store: {error}", file=sys.stderr)
    sys.exit(1)
