# Sourced by the scripts beside it.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# What is fetched and built is kept here.
lab=${VIOMMU_LAB:-$HOME/.cache/viommu-lab}

die() { echo "${0##*/}: $*" >&2; exit 2; }

# need COMMAND PACKAGE…: says how to install what is missing.
need() {
  local command=$1; shift
  command -v "$command" >/dev/null || die "no $command; install it: apt-get install $*"
}

# fetch_packages ARCHITECTURE FOLDER 'SUITE…' VERB ARGUMENT…: apt-get with a state of its own under FOLDER/apt, so that this machine's packages are
# left alone. VERB: `install` brings packages with all that they need to FOLDER/apt/archives, `download` the packages alone to FOLDER.
fetch_packages() {
  local architecture=$1 folder=$2 suites=$3 verb=$4 suite mirror; shift 4
  need apt-get apt
  mirror=$(grep -rhoE 'https?://[^ ]+/debian/?( |$)' /etc/apt/sources.list /etc/apt/sources.list.d/ 2>/dev/null | head -1 | tr -d ' ') || true
  [[ -n $mirror ]] || die 'apt knows no Debian mirror: /etc/apt/sources.list'
  local keyring=/usr/share/keyrings/debian-archive-keyring.gpg
  [[ -e $keyring ]] || die "no $keyring; install it: apt-get install debian-archive-keyring"
  rm -rf "$folder/apt"
  mkdir -p "$folder"/apt/lists/partial "$folder"/apt/archives/partial
  for suite in $suites; do echo "deb [arch=$architecture signed-by=$keyring] $mirror $suite main"; done >"$folder/apt/sources.list"
  touch "$folder/apt/status"
  local options=(-qq -o "APT::Architecture=$architecture" -o "APT::Architectures=$architecture" -o APT::Sandbox::User=root -o Acquire::Languages=none
    -o "Dir::State=$folder/apt" -o "Dir::State::lists=$folder/apt/lists" -o "Dir::State::status=$folder/apt/status" -o "Dir::Cache=$folder/apt"
    -o "Dir::Cache::archives=$folder/apt/archives" -o "Dir::Etc::sourcelist=$folder/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o Dir::Etc::preferencesparts=/dev/null -o "APT::Default-Release=${suites##* }")
  apt-get "${options[@]}" update
  case $verb in
    install) apt-get "${options[@]}" install -y --no-install-recommends --download-only "$@" ;;
    download) (cd "$folder" && apt-get "${options[@]}" download "$@") ;;
  esac
}

# unpack FOLDER ROOT: what fetch_packages brought, in a tree of its own.
unpack() {
  need dpkg-deb dpkg
  local package
  mkdir -p "$2"
  for package in "$1"/apt/archives/*.deb; do dpkg-deb -x "$package" "$2"; done
  rm -rf "$1/apt" "$2"/usr/share/{doc,man,locale,icu,info,lintian}
}
