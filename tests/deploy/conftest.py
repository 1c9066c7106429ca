"""torch's export writes traces to a log; nobody reads them here, and catching them takes a quarter of the time."""

import logging

logging.getLogger("torch.__trace").disabled = True
