#!/usr/bin/env bash
# Fills a folder with the newest clients that Debian has (its unstable suite), for record-clients.mjs --root, without
# installing anything: packages are only unpacked. Needs root on Debian. `clients-root.sh FOLDER [SUITE PACKAGE...]`
# unpacks other packages over it, for instance `clients-root.sh FOLDER trixie cosign`.
set -euo pipefail
folder=${1:?the folder}
suite=${2:-sid}
packages=("${@:3}")
[ ${#packages[@]} -gt 0 ] || packages=(base-files bash coreutils ca-certificates mount docker.io docker-cli containerd runc
  podman skopeo buildah docker-buildx cosign oras notation golang-go golang-github-google-go-containerregistry-dev)

# The mirror that this system uses.
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m 1 '/debian/\?$')
state=$(mktemp -d)
trap 'rm -rf "$state"' EXIT
mkdir -p "$state"/{etc/apt.conf.d,etc/preferences.d,lists/partial,archives/partial} "$folder"
: >"$state/status"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$state/etc/sources.list"
cat >"$state/apt.conf" <<CONF
Dir::Etc "$state/etc";
Dir::State::lists "$state/lists";
Dir::State::status "$state/status";
Dir::Cache::archives "$state/archives";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
APT::Install-Recommends "false";
CONF
export APT_CONFIG="$state/apt.conf"
apt-get update -qq
if [ $# -gt 2 ]; then
  (cd "$state/archives" && apt-get download -qq "${packages[@]}")
else
  apt-get install -qq -y --download-only "${packages[@]}"
  dpkg -x "$state"/archives/base-files_*.deb "$folder" # first: it has the links /bin and /lib
fi
for package in "$state"/archives/*.deb; do
  dpkg -x "$package" "$folder"
  touch "$folder/versions" # some programs do not know theirs
  name=$(dpkg-deb -f "$package" Package)
  sed -i "/^$name /d" "$folder/versions"
  echo "$name $(dpkg-deb -f "$package" Version)" >>"$folder/versions"
done

# What the packages' scripts would do.
ln -sf bash "$folder/usr/bin/sh"
mkdir -p "$folder"/{root,tmp,etc/ssl/certs}
printf 'root:x:0:0:root:/root:/bin/sh\n' >"$folder/etc/passwd"
printf 'root:x:0:\ndocker:x:999:\n' >"$folder/etc/group"
printf '127.0.0.1 localhost\n' >"$folder/etc/hosts"
cp /etc/ssl/certs/ca-certificates.crt "$folder/etc/ssl/certs/"
mountpoint -q "$folder" || mount --bind "$folder" "$folder" # dockerd changes its root
for tree in proc sys dev; do
  mountpoint -q "$folder/$tree" || mount --rbind "/$tree" "$folder/$tree"
done

# crane has no package of its own, but its source has.
source=github.com/google/go-containerregistry
if [ -d "$folder/usr/share/gocode/src/$source" ] && [ ! -x "$folder/usr/bin/crane" ]; then
  release=$(sed -n '/^Package: golang-github-google-go-containerregistry-dev$/,/^$/s/^Version: \([0-9.]*\).*/\1/p' \
    "$state"/lists/*_Packages | head -n 1)
  flags="-X $source/cmd/crane/cmd.Version=$release -X $source/pkg/v1/remote/transport.Version=$release"
  chroot "$folder" /usr/bin/env -i PATH=/usr/bin HOME=/root GO111MODULE=off GOPATH=/usr/share/gocode \
    go build -o /usr/bin/crane -ldflags "$flags" $source/cmd/crane
fi
