#!/bin/sh
# One rank of killed.py. Stays until all are over, with the connection to the launcher: or that would end the others, and not what MPI tells them.
# killed.sh PYTHON FOLDER RANKS
"$1" "$(dirname "$0")/killed.py"
: >"$2/over.$$"
until [ "$(ls "$2" | grep -c '^over\.')" -ge "$3" ]; do sleep 0.1; done
