#!/usr/bin/env bash
# Try the launchers for clusters for real: a Slurm of one node, made of Debian's packages, and a local Ray.
#
#   sudo scripts/try_launchers.sh [slurm] [ray]        both where none is named; some 20 minutes on two cores
#
# Needs root on a Debian machine without a Slurm of its own, and the packages slurm-wlm, slurmdbd, munge and mariadb-server
# (apt-get install), for Ray also pip install 'multimodal-loss[ray]'. PYTHON=<interpreter> takes another than .venv/bin/python.
# Everything lies in a folder of its own (WORK=<folder>; kept, with all logs) and ends with the script.
# What is tried of each, with sweeps of 8 jobs; a line says what was found, and the exit code is 1 if one was not as it should be:
#   sweep      every job ends well, bit for bit as without a launcher
#   failure    one job of 8 fails: the others are done, one line names it, exit code 1
#   time-out   a job longer than its limit is queued again until it is done, bit for bit as undisturbed; without a limit on the
#              number of times it is stopped, and the command says so
#   notice     a job that is told that it will be ended (SIGTERM) writes a checkpoint and goes on
#   killed     a job's process is killed (SIGKILL): the command fails in one line; started again it trains what is missing only
set -uo pipefail
cd "$(dirname "$0")/.."
case "${1:-}" in -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;; esac
PYTHON=${PYTHON:-.venv/bin/python}
WORK=${WORK:-$(mktemp -d /tmp/try-launchers.XXXXXX)}
mkdir -p "$WORK"
WORK=$(realpath "$WORK")
export OMP_NUM_THREADS=1
DATA=(dataset.num_features=20 dataset.num_informative=5 dataset.train_size=80 dataset.validation_size=20 dataset.test_size=60
  "backbone.hidden=[8,6]" threads=1 device=cpu "data_dir=$WORK/data" progress=false)
EIGHT=("seeds=[0],[1],[2],[3]" fusion=sum_ce,multimodal trainer.max_epochs=30)
LONG=("seeds=[0]" fusion=multimodal trainer.path=ordinary trainer.patience=1000000 checkpoint_seconds=5)
bad=0

say() { printf '%-6s %-9s %s\n' "$@"; }
check() { # launcher, what, whether it holds (an exit code), what was found
  if [ "$3" -eq 0 ]; then say "$1" "$2" "ok: $4"; else say "$1" "$2" "NOT AS IT SHOULD BE: $4"; bad=1; fi
}
train() { # folder of the runs, then overrides: exit code in $code and <folder>.code, what was said in <folder>.out and .err
  local folder=$1 began=$SECONDS
  shift
  "$PYTHON" -m multimodal_loss.train -m "${DATA[@]}" "output_dir=$WORK/$folder" "$@" >"$WORK/$folder.out" 2>"$WORK/$folder.err"
  code=$?
  echo $code >"$WORK/$folder.code"
  took=$((SECONDS - began))
}
done_in() { grep -l '"status": "done"' "$WORK/$1"/*/result.json 2>/dev/null | wc -l; }
same() { # the predictions of every run in one folder are, byte for byte, those in another
  for file in "$WORK/$1"/*/predictions.npz; do
    cmp -s "$file" "$WORK/$2/$(basename "$(dirname "$file")")/predictions.npz" || return 1
  done
}
trial() { # launcher, then its options: what every launcher must do
  local name=$1
  shift
  train "$name-sweep" "$@" "${EIGHT[@]}"
  [ $code -eq 0 ] && [ "$(done_in "$name-sweep")" -eq 8 ] && [ "$(wc -l <"$WORK/$name-sweep.out")" -eq 8 ] && same "$name-sweep" plain
  check "$name" sweep $? "exit code $code, $(done_in "$name-sweep") of 8 done, as without a launcher, $took s"
  train "$name-failure" "$@" fusion=multimodal "trainer.max_epochs=5" "seeds=[0]" optimizer.lr=1e-4,2e-4,3e-4,1e30,4e-4,5e-4,6e-4,7e-4
  [ $code -eq 1 ] && [ "$(done_in "$name-failure")" -eq 7 ] && [ "$(grep -c ^error "$WORK/$name-failure.err")" -eq 1 ] &&
    grep -q '^error: job optimizer.lr=1e+30: the loss of replicate 0 became nan' "$WORK/$name-failure.err"
  check "$name" failure $? "exit code $code, $(done_in "$name-failure") of 8 done; said: $(grep ^error "$WORK/$name-failure.err")"
}
wait_for() { # a file, at most so many seconds
  for _ in $(seq "$2"); do
    compgen -G "$1" >/dev/null && return 0
    sleep 1
  done
  return 1
}

# --- Slurm

slurm_up() {
  local of=$WORK/slurm host
  host=$(hostname -s)
  mkdir -p "$of"/{state,spool,mysql,munge} && chmod 755 "$WORK" && chmod 700 "$of/munge"
  export SLURM_CONF=$of/slurm.conf
  head -c 128 /dev/urandom >"$of/munge/key" && chmod 400 "$of/munge/key"
  mkdir -p /run/munge && chmod 755 /run/munge # the socket where Slurm's parts look for it
  munged --key-file="$of/munge/key" --pid-file="$of/munge/pid" --log-file="$of/munge/log" --seed-file="$of/munge/seed" --force || return 1
  mariadb-install-db --user=root --datadir="$of/mysql" >"$of/mysql.log" 2>&1 || return 1
  mariadbd --no-defaults --user=root --datadir="$of/mysql" --port=33306 --bind-address=127.0.0.1 --socket="$of/mysql.sock" \
    --pid-file="$of/mysql.pid" --innodb-buffer-pool-size=64M >>"$of/mysql.log" 2>&1 &
  wait_for "$of/mysql.sock" 60 || return 1
  mariadb --socket="$of/mysql.sock" -e "create user slurm@'127.0.0.1' identified by 'slurm'; create user slurm@localhost identified by 'slurm'; grant all on slurm_acct_db.* to slurm@'127.0.0.1'; grant all on slurm_acct_db.* to slurm@localhost;" || return 1
  cat >"$of/slurmdbd.conf" <<END
AuthType=auth/munge
DbdHost=localhost
SlurmUser=root
LogFile=$of/slurmdbd.log
PidFile=$of/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=33306
StorageUser=slurm
StoragePass=slurm
END
  chmod 600 "$of/slurmdbd.conf"
  # Without cgroups and without binding to cores: enough for states, time limits, signals and queueing again.
  cat >"$of/slurm.conf" <<END
ClusterName=one
SlurmctldHost=$host
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation=$of/state
SlurmdSpoolDir=$of/spool
SlurmctldPidFile=$of/slurmctld.pid
SlurmdPidFile=$of/slurmd.pid
SlurmctldLogFile=$of/slurmctld.log
SlurmdLogFile=$of/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2,bf_interval=2
KillWait=5
NodeName=$host CPUs=$(getconf _NPROCESSORS_ONLN) RealMemory=4000 State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP
END
  SLURM_CONF=$of/slurm.conf slurmdbd -D >"$of/slurmdbd.out" 2>&1 &
  sleep 3
  slurmctld -D >"$of/slurmctld.out" 2>&1 &
  sleep 2
  slurmd -D >"$of/slurmd.out" 2>&1 &
  for _ in $(seq 15); do
    [ "$(timeout 10 sinfo -h -o %T 2>/dev/null)" = idle ] && return 0
    sleep 1
  done
  return 1
}
slurm_down() {
  local of=$WORK/slurm
  [ -d "$of" ] || return 0
  scancel --state=RUNNING,PENDING --user=root 2>/dev/null
  sleep 1
  for pid in "$of"/slurmd.pid "$of"/slurmctld.pid "$of"/slurmdbd.pid "$of"/mysql.pid "$of"/munge/pid; do
    [ -f "$pid" ] && kill "$(cat "$pid")" 2>/dev/null
  done
}
at_once() {
  while sleep 2; do
    for job in $(squeue -h -t PENDING -o '%i %r' | awk '$2 == "BeginTime" {print $1}'); do scontrol update "jobid=$job" starttime=now; done
  done
}
try_slurm() {
  slurm_up || { check slurm start 1 "no Slurm; logs in $WORK/slurm"; return; }
  say slurm start "ok: $(slurmctld -V), node $(sinfo -h -o %T)"
  local small=(hydra/launcher=slurm_cpu hydra.launcher.cpus_per_task=1 hydra.launcher.mem_gb=1)
  trial slurm "${small[@]}"

  # Slurm counts in minutes, may give notice a minute early, and keeps what is queued again from starting for two minutes.
  local limit=("${small[@]}" hydra.launcher.timeout_min=2 hydra.launcher.signal_delay_s=5)
  at_once &
  local releasing=$!
  train slurm-timeout "${limit[@]}" "${LONG[@]}" trainer.max_epochs=$OVER
  local again
  again=$(sacct -D -X -n -o State -j "$(basename "$WORK"/slurm-timeout/.sweep/.submitit/*)" | grep -c REQUEUED)
  [ $code -eq 0 ] && [ "$again" -gt 0 ] && same slurm-timeout undisturbed
  check slurm time-out $? "exit code $code, queued again $again times, predictions of the undisturbed run, $took s"
  train slurm-once "${limit[@]}" hydra.launcher.max_num_timeout=0 "${LONG[@]}" trainer.max_epochs=1000000
  [ $code -eq 140 ] && grep -q 'stopped by SIGUSR2 (.*timed-out too many times' "$WORK/slurm-once.err"
  check slurm time-out $? "where that is not allowed: exit code $code; said: $(grep ^error "$WORK/slurm-once.err")"

  train slurm-notice "${small[@]}" "${LONG[@]}" trainer.max_epochs=$SHORT checkpoint_seconds=100000 &
  local command=$!
  wait_for "$WORK/slurm-notice/*/config.yaml" 120 && sleep 10
  local without
  without=$(compgen -G "$WORK/slurm-notice/*/checkpoint.pt")
  scancel --signal=TERM --user=root
  wait_for "$WORK/slurm-notice/*/checkpoint.pt" 20
  check slurm notice $? "SIGTERM: a checkpoint was written${without:+ (there was one before)}"
  scontrol requeue "$(squeue -h -o %i)" # as Slurm does when it preempts a job
  wait $command
  kill $releasing
  [ "$(cat "$WORK/slurm-notice.code")" -eq 0 ] && same slurm-notice undisturbed
  check slurm notice $? "then queued again by Slurm: exit code $(cat "$WORK/slurm-notice.code"), predictions of the undisturbed run"
  killed slurm "^[^ ]*python[^ ]* .*submitit.core._submit $WORK/slurm-killed" "${small[@]}"
}
killed() { # launcher, what the command line of a job's process is like, options
  local name=$1 pattern=$2 kept=$WORK/$1-killed.kept
  shift 2
  local sweep=("$name-killed" "$@" "seeds=[0],[1],[2],[3]" fusion=sum_ce,multimodal trainer.path=ordinary trainer.max_epochs=4000)
  sweep+=(trainer.patience=1000000 checkpoint_seconds=1)
  train "${sweep[@]}" &
  local command=$!
  wait_for "$WORK/$name-killed/*/checkpoint.pt" 120
  kill -KILL "$(pgrep -o -f "$pattern")"
  wait $command
  local code_then said
  code_then=$(cat "$WORK/$name-killed.code")
  said=$(grep ^error "$WORK/$name-killed.err")
  [ "$code_then" -eq 1 ] && [ "$(grep -c ^error "$WORK/$name-killed.err")" -eq 1 ]
  check "$name" killed $? "exit code $code_then; said: $said"
  [ "$name" = slurm ] && while [ -n "$(squeue -h)" ]; do sleep 1; done # the others go on
  local there
  there=$(done_in "$name-killed")
  sha256sum "$WORK/$name-killed"/*/result.json >"$kept" 2>/dev/null # of none where Ray has ended with its command
  train "${sweep[@]}"
  [ $code -eq 0 ] && [ "$there" -lt 8 ] && [ "$(done_in "$name-killed")" -eq 8 ] &&
    { [ "$there" -eq 0 ] || sha256sum --quiet -c "$kept"; }
  check "$name" killed $? "started again: exit code $code, 8 of 8 done, the $there that were are as they were"
}
# --- Ray

try_ray() {
  "$PYTHON" -c 'import hydra_plugins.hydra_ray_launcher' 2>/dev/null || { check ray start 1 "not installed"; return; }
  say ray start "ok: $("$PYTHON" -c 'import ray; print("ray", ray.__version__)')"
  export RAY_worker_niceness=0 # on a busy machine its workers, of niceness 15, hardly run
  trial ray hydra/launcher=ray_local
  train ray-restarted hydra/launcher=ray_local "${LONG[@]}" trainer.max_epochs=$SHORT &
  local command=$!
  wait_for "$WORK/ray-restarted/*/checkpoint.pt" 120
  kill -KILL "$(pgrep -o -f '^ray::_run_job')"
  wait $command
  [ "$(cat "$WORK/ray-restarted.code")" -eq 0 ] && same ray-restarted undisturbed
  check ray killed $? "exit code $(cat "$WORK/ray-restarted.code"): started again by Ray, predictions of the undisturbed run"
  killed ray '^ray::_run_job' hydra/launcher=ray_local hydra.launcher.ray.remote.max_retries=0
}

trap 'slurm_down' EXIT
train plain "${EIGHT[@]}"
say plain sweep "exit code $code, $(done_in plain) of 8 done, $took s"
# As many epochs as take half a minute here, and over two minutes.
train speed "${LONG[@]}" trainer.max_epochs=4000
SECONDS_OF_4000=$(tail -n 1 "$WORK"/speed/*/history.csv | cut -d, -f4)
SHORT=$(awk "BEGIN {print int(4000 * 30 / $SECONDS_OF_4000)}")
OVER=$(awk "BEGIN {print int(4000 * 150 / $SECONDS_OF_4000)}")
train undisturbed "${LONG[@]}" trainer.max_epochs=$SHORT,$OVER
for launcher in ${*:-slurm ray}; do "try_$launcher"; done
exit $bad
