#!/bin/sh
# A real Slurm on this one machine, for tests/test_slurm.py: Debian's slurm-wlm and munge on loopback, no accounting.
#   sh tests/slurm.sh        install, configure and start it (root, Debian or Ubuntu); nothing happens where one answers
#   sh tests/slurm.sh stop   end its daemons
set -eu
MARK="# written by tests/slurm.sh"
CONF=/etc/slurm/slurm.conf
STATE=/var/lib/slurm/uncpaper

stop() {
    for name in slurmctld slurmd; do
        if [ -s "/run/$name.pid" ]; then kill "$(cat "/run/$name.pid")" 2>/dev/null || true; fi
    done
}

refuse() { echo "tests/slurm.sh: $1" >&2; exit 2; }

if [ "${1:-start}" = stop ]; then stop; exit 0; fi
[ "${1:-start}" = start ] || refuse "got $1; allowed are start and stop"
if sinfo --noheader >/dev/null 2>&1; then exit 0; fi
[ "$(id -u)" = 0 ] || refuse "this needs root: it installs Debian packages and starts daemons"
command -v apt-get >/dev/null || refuse "this needs apt-get, for Debian's slurm-wlm and munge"
if [ -e "$CONF" ] && ! grep -q "$MARK" "$CONF"; then refuse "$CONF is somebody's own: start that Slurm"; fi
if ! command -v slurmctld >/dev/null || ! command -v munged >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge
fi

MEGABYTES=$(($(awk '/^MemTotal/ {print $2}' /proc/meminfo) / 1024))
mkdir -p "$STATE/ctld" "$STATE/d" /etc/slurm
cat > "$CONF" <<EOF
$MARK
ClusterName=uncpaper
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
StateSaveLocation=$STATE/ctld
SlurmdSpoolDir=$STATE/d
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile=/var/log/slurmctld.log
SlurmdLogFile=/var/log/slurmd.log
MpiDefault=none
ReturnToService=2
KillWait=2
MinJobAge=600
SchedulerParameters=sched_interval=2,batch_sched_delay=1
NodeName=$(hostname -s) NodeAddr=127.0.0.1 CPUs=$(nproc --all) RealMemory=$MEGABYTES State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
EOF

if ! munge -n >/dev/null 2>&1; then
    mkdir -p /run/munge
    chown munge: /run/munge
    runuser -u munge -- munged
fi
slurmctld -c
slurmd -c
tries=0
until sinfo --noheader --states=idle 2>/dev/null | grep -q idle; do
    tries=$((tries + 1))
    [ $tries -lt 30 ] || refuse "Slurm does not answer: see /var/log/slurmctld.log and /var/log/slurmd.log"
    sleep 1
done
