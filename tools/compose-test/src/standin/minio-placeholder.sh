#!/bin/sh
# Not MinIO: a placeholder that keeps its place in the compose file where MinIO's image cannot be had. Nothing of the
# jobs system uses it.
echo "placeholder: this is not MinIO; its image could not be pulled"
trap 'exit 0' TERM INT
sleep infinity &
wait
