#!/bin/bash
# Fetches what a ppc64el guest needs, once: Debian's kernel with its VFIO modules, node with its libraries, koffi's binary. About 130 MB.
#   setup.sh FOLDER KOFFI_VERSION
set -euo pipefail
folder=$1
koffi=$2
[[ -e $folder/.ready-$koffi ]] && exit 0
rm -rf "$folder"
mkdir -p "$folder"/apt/lists/partial "$folder"/apt/archives/partial "$folder"/root
mirror=$(grep -rhoE 'https?://[^ ]+/debian/?( |$)' /etc/apt/sources.list /etc/apt/sources.list.d/ 2>/dev/null | head -1 | tr -d ' ' || true)
echo "deb [arch=ppc64el signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" >"$folder/apt/sources.list"
touch "$folder/apt/status"
# A state of apt's own, so that this machine's packages are not touched.
apt="apt-get -qq -o APT::Architecture=ppc64el -o APT::Architectures=ppc64el -o Dir::State=$folder/apt -o Dir::State::lists=$folder/apt/lists
  -o Dir::State::status=$folder/apt/status -o Dir::Cache=$folder/apt -o Dir::Cache::archives=$folder/apt/archives
  -o Dir::Etc::sourcelist=$folder/apt/sources.list -o Dir::Etc::sourceparts=/dev/null -o Dir::Etc::preferencesparts=/dev/null"
$apt update
$apt install -y --no-install-recommends --download-only nodejs busybox-static
image=$(apt-cache ${apt#apt-get -qq} depends linux-image-powerpc64le | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -1)
(cd "$folder" && $apt download "$image")
for deb in "$folder"/apt/archives/*.deb; do dpkg-deb -x "$deb" "$folder/root"; done
rm -rf "$folder"/root/usr/share/{doc,man,locale,icu,info}
dpkg-deb -x "$folder"/linux-image-*.deb "$folder/kernel"
cp "$folder"/kernel/boot/vmlinux-* "$folder/vmlinux"
mkdir -p "$folder/root/mod"
for module in vfio vfio_iommu_spapr_tce pci/vfio-pci-core pci/vfio-pci; do
  xz -dc "$folder"/kernel/usr/lib/modules/*/kernel/drivers/vfio/$module.ko.xz >"$folder/root/mod/$(basename $module).ko"
done
(cd "$folder" && npm pack --silent "@koromix/koffi-linux-ppc64@$koffi" && tar xzf koromix-koffi-linux-ppc64-*.tgz)
rm -rf "$folder/apt" "$folder/kernel" "$folder"/*.deb "$folder"/*.tgz
touch "$folder/.ready-$koffi"
