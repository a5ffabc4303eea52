#!/bin/sh
# Makes hello-1.tar and hello-2.tar: two versions of a web server that says hello. Needs busybox-static.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
busybox=$(command -v busybox) || {
    echo "busybox is missing: apt-get install busybox-static" >&2
    exit 1
}
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root/bin" "$root/www" "$root/tmp"
cp "$busybox" "$root/bin/busybox"
for name in sh ls cat env hostname httpd nslookup ps sleep wget tar; do
    ln -s busybox "$root/bin/$name"
done
for version in 1 2; do
    echo "hello from version $version" > "$root/www/index.html"
    "$here/build-image.sh" "localhost/hello:$version" "$root" "hello-$version.tar" \
        /bin/sh -c 'echo "serving on 8080"; exec httpd -f -v -p 8080 -h /www'
done
