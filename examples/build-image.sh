#!/bin/sh
# Makes a container image of a directory, with nothing but tar and sha256sum.
#
#   build-image.sh NAME DIRECTORY ARCHIVE [COMMAND ...]
#
# NAME       what pods call it: localhost/hello:1
# DIRECTORY  its root file system
# ARCHIVE    where the image goes, as an OCI layout: kubelith image import ARCHIVE
# COMMAND    what its containers run
set -eu
if [ $# -lt 3 ]; then
    sed -n '2,9s/^# \{0,1\}//p' "$0"
    exit 2
fi
name=$1 directory=$2 archive=$3
shift 3

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
blobs=$work/blobs/sha256
mkdir -p "$blobs"

# Adds a file to the blobs; sets $digest and $size.
add() {
    digest=$(sha256sum "$1" | cut -d' ' -f1)
    size=$(stat -c %s "$1")
    mv "$1" "$blobs/$digest"
}

command=
for word in "$@"; do
    word=$(printf %s "$word" | sed 's/\\/\\\\/g; s/"/\\"/g')
    command="$command${command:+,}\"$word\""
done

tar --owner=0 --group=0 --numeric-owner --sort=name --mtime=@0 -C "$directory" -cf "$work/layer" .
add "$work/layer"
layer=$digest layer_size=$size

case $(uname -m) in x86_64) machine=amd64 ;; aarch64) machine=arm64 ;; *) machine=$(uname -m) ;; esac
printf '{"architecture":"%s","os":"linux","config":{"Env":["PATH=/usr/local/bin:/usr/bin:/bin"],"Cmd":[%s]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "$machine" "$command" "$layer" > "$work/config"
add "$work/config"
config=$digest config_size=$size

printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:%s","size":%s},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:%s","size":%s}]}' \
    "$config" "$config_size" "$layer" "$layer_size" > "$work/manifest"
add "$work/manifest"

printf '{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:%s","size":%s,"annotations":{"io.containerd.image.name":"%s","org.opencontainers.image.ref.name":"%s"}}]}' \
    "$digest" "$size" "$name" "$name" > "$work/index.json"
printf '{"imageLayoutVersion":"1.0.0"}' > "$work/oci-layout"

tar -C "$work" -cf "$archive" oci-layout index.json blobs
echo "$archive: $name"
