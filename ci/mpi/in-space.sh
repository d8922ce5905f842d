#!/bin/sh
# What Hydra takes for ssh: in-space.sh OPTION... HOST COMMAND... runs the command in the network namespace of the host.
while :; do
    case $1 in
        -*) shift ;;
        *) break ;;
    esac
done
for pair in $MPI_SPACE_OF_HOST; do
    [ "${pair%%=*}" != "$1" ] || space=${pair#*=}
done
shift
exec ip netns exec "$space" sh -c "$*"
