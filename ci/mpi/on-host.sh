#!/bin/sh
# What Hydra takes for ssh: on-host.sh OPTION... HOST COMMAND... runs the command in a host of the lab.
while :; do
    case $1 in
        -*) shift ;;
        *) break ;;
    esac
done
host=$1
shift
export ON_HOST="$*" SHELL="$ON_LAB/command"
exec "$ON_LAB_GRIDNET" lab shell "$host"
