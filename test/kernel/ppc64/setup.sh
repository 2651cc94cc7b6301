#!/bin/bash
# Fetches what a ppc64el guest needs, once: Debian's kernel with its VFIO modules, node with its libraries, koffi's binary. About 130 MB.
# A mirror's pool can lack what its index names, for days after a point release; then the release before serves, with the same kernel series.
#   setup.sh FOLDER KOFFI_VERSION
set -euo pipefail
folder=$1
koffi=$2
[[ -e $folder/.ready-$koffi ]] && exit 0
mirror=$(grep -rhoE 'https?://[^ ]+/debian/?( |$)' /etc/apt/sources.list /etc/apt/sources.list.d/ 2>/dev/null | head -1 | tr -d ' ' || true)

# A state of apt's own, so that this machine's packages are not touched.
options="-o APT::Architecture=ppc64el -o APT::Architectures=ppc64el -o Dir::State=$folder/apt -o Dir::State::lists=$folder/apt/lists
  -o Dir::State::status=$folder/apt/status -o Dir::Cache=$folder/apt -o Dir::Cache::archives=$folder/apt/archives
  -o Dir::Etc::sourcelist=$folder/apt/sources.list -o Dir::Etc::sourceparts=/dev/null -o Dir::Etc::preferencesparts=/dev/null"
apt="apt-get -qq $options"

# Fetches the packages of a suite, the kernel from another one. Each step ends it when it fails: as a condition it would go on.
fetch() {
  rm -rf "$folder" && mkdir -p "$folder"/apt/lists/partial "$folder"/apt/archives/partial "$folder"/root || return
  local suite
  for suite in "$1" "$2"; do
    echo "deb [arch=ppc64el signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main"
  done | sort -u >"$folder/apt/sources.list"
  touch "$folder/apt/status"
  $apt update || return
  $apt install -y --no-install-recommends --download-only nodejs busybox-static || return
  local image
  image=$(apt-cache $options -o APT::Default-Release="$2" depends linux-image-powerpc64le | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | tail -1)
  (cd "$folder" && $apt download "$image")
}

fetch trixie trixie || {
  echo 'setup.sh: not all of Debian 13 can be had for ppc64el now; Debian 12 with its backported kernel' >&2
  fetch bookworm bookworm-backports
}
for deb in "$folder"/apt/archives/*.deb; do dpkg-deb -x "$deb" "$folder/root"; done
# Packages of Debian 12 still put files beside /usr that belong in it.
for name in bin sbin lib lib64; do
  [[ -d $folder/root/$name ]] || continue
  mkdir -p "$folder/root/usr/$name"
  cp -a "$folder/root/$name/." "$folder/root/usr/$name/"
  rm -rf "${folder:?}/root/$name"
done
rm -rf "$folder"/root/usr/share/{doc,man,locale,icu,info}
dpkg-deb -x "$folder"/linux-image-*.deb "$folder/kernel"
cp "$folder"/kernel/boot/vmlinux-* "$folder/vmlinux"
mkdir -p "$folder/root/mod"
for module in vfio vfio_iommu_spapr_tce vfio-pci-core vfio-pci; do
  # Under /usr/lib or /lib, by the release.
  xz -dc "$(find "$folder/kernel" -path "*/kernel/drivers/vfio/*" -name "$module.ko.xz")" >"$folder/root/mod/$module.ko"
done
(cd "$folder" && npm pack --silent "@koromix/koffi-linux-ppc64@$koffi" && tar xzf koromix-koffi-linux-ppc64-*.tgz)
rm -rf "$folder/apt" "$folder/kernel" "$folder"/*.deb "$folder"/*.tgz
touch "$folder/.ready-$koffi"
