#!/usr/bin/env bash
# What tpu_vm and sky.yaml do on each host of a slice. The code lies beside this file; all else is in ~/experts.
#
#   host.sh packages             bring Python and the packages
#   host.sh install BUCKET       end what an earlier job has left; bring the packages and the bucket
#   host.sh start ARGUMENTS      start main.py, apart from this connection
#   host.sh running ARGUMENTS    end with 0 where that job runs, with 10 where none does, with 11 where another does
#   host.sh follow               show the log until the job ends; end as it did
#   host.sh stop                 let the job save and end
#   host.sh status               one line
set -euo pipefail

code=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
home=$HOME/experts
# Emptied at boot, unlike the home folder: a number in it is a process of this boot.
pid_file=${TMPDIR:-/tmp}/experts.pid
verb=$1
shift
mkdir -p "$home"
cd "$home"

alive() { [[ -e $pid_file ]] && kill -0 "$(cat "$pid_file")" 2> /dev/null; }
same() { [[ $(cat arguments) == "$(printf '%s\n' "$@")" ]]; }

# The image carries Python 3.10, on which pip silently takes an old JAX. uv brings builds of its own:
# docs.astral.sh/uv/reference/installer, docs.astral.sh/uv/concepts/python-versions.
packages() {
  if [[ ! -x bin/uv ]]; then
    curl -LsSf https://astral.sh/uv/0.13.8/install.sh | env UV_UNMANAGED_INSTALL="$home/bin" sh
  fi
  if [[ ! -x venv/bin/python ]]; then bin/uv venv --managed-python --python 3.11 venv; fi
  bin/uv pip install --no-progress --python venv/bin/python -c "$code/constraints.txt" -e "$code[tpu]"
}

# cloud.google.com/storage/docs/cloud-storage-fuse/install. Metadata is not cached: hosts that write a checkpoint together
# must see each other's folders. A checkpoint is committed by renaming its folder, hence the limit on that.
mount_bucket() {
  if [[ $(findmnt -n -o SOURCE /gcs) == "$1" ]]; then return; fi
  if ! command -v gcsfuse > /dev/null; then
    local key=/usr/share/keyrings/cloud.google.asc apt=(sudo apt-get -q -o DPkg::Lock::Timeout=300)
    curl -LsSf https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee "$key" > /dev/null
    echo "deb [signed-by=$key] https://packages.cloud.google.com/apt gcsfuse-$(lsb_release -cs) main" |
      sudo tee /etc/apt/sources.list.d/gcsfuse.list
    "${apt[@]}" update
    "${apt[@]}" install -y gcsfuse
  fi
  sudo mkdir -p /gcs
  sudo chown "$(id -u)" /gcs
  gcsfuse --implicit-dirs --rename-dir-limit=200000 \
    --metadata-cache-ttl-secs=0 --metadata-cache-negative-ttl-secs=0 "$1" /gcs
}

case $verb in
  packages)
    packages
    ;;
  install)
    # Where host 0's job has ended, what other hosts still have of it waits for nobody, and holds the chips.
    if [[ -e $pid_file ]]; then
      group=$(cat "$pid_file")
      while kill -KILL -- "-$group" 2> /dev/null; do sleep 0.2; done
    fi
    sudo rm -f "$pid_file" /tmp/libtpu_lockfile
    packages
    mount_bucket "$1"
    ;;
  start)
    # gcloud repeats a command whose connection breaks.
    if alive; then
      same "$@" || exit 11
      exit 0
    fi
    rm -f exit
    printf '%s\n' "$@" > arguments
    cd "$code"
    EXIT_FILE=$home/exit nohup setsid "$home/venv/bin/python" -m launch.worker "$@" > "$home/log.txt" 2>&1 < /dev/null &
    echo $! > "$pid_file"
    ;;
  running)
    alive || exit 10
    same "$@" || exit 11
    ;;
  follow)
    if [[ ! -e $pid_file ]]; then
      echo 'nothing was started here' >&2
      exit 1
    fi
    tail -n +1 --pid="$(cat "$pid_file")" -F log.txt
    # Killed with its machine, it could not say how it ended.
    exit "$(cat exit 2> /dev/null || echo 143)"
    ;;
  stop)
    if alive; then
      kill -TERM "$(cat "$pid_file")"
      tail --pid="$(cat "$pid_file")" -f /dev/null
    fi
    ;;
  status)
    if alive; then state=runs; else state="ended with $(cat exit 2> /dev/null || echo 143)"; fi
    echo "$(hostname): $state: $(tail -n 1 log.txt)"
    ;;
  *)
    echo "host.sh knows no $verb" >&2
    exit 1
    ;;
esac
