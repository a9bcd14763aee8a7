# What is done with the shipped unit where systemd is the first process. Each check
# is a line, `pass WHAT` or `fail WHAT: WHY`. Files of the package lie where the
# README puts them.
export PATH=/usr/bin:/bin
# By name, or the client would count by itself where nobody listens.
export NETIO_ENDPOINT=unix:///run/netio/collector.sock
mkdir -p /var/tmp /var/lib
unit=netio-collector.service
log=/run/collector.log

pass() { echo "pass $1"; }
fail() {
    echo "fail $1: $2"
    tail -n 15 $log 2>/dev/null | sed 's/^/    log: /'
}
# check WHAT WHY COMMAND...: passes if the command succeeds.
check() {
    what=$1 why=$2
    shift 2
    if "$@" >/run/out 2>&1; then pass "$what"; else fail "$what" "$why: $(tail -n 3 /run/out | tr '\n' ' ')"; fi
}
# within SECONDS COMMAND...: tries the command until it succeeds.
within() {
    left=$1
    shift
    until "$@"; do
        [ "$left" -gt 0 ] || return 1
        left=$((left - 1))
        sleep 1
    done
}
property() { systemctl show --value -p "$1" $unit; }
main_pid() { property MainPID; }
is() { [ "$(property "$1")" = "$2" ]; }
# In hexadecimal, or "unknown", which is none of what is expected.
status_of() {
    value=$(grep "^$1:" "/proc/$(main_pid)/status" | tr -s '\t ' ' ' | cut -d' ' -f2)
    echo "${value:-unknown}"
}
info_has() { netio-client info --output json | grep -F "$1"; }
# as GID COMMAND...: as nobody, in this group only. Busybox has a setpriv of its own.
as() {
    group=$1
    shift
    /usr/bin/setpriv --reuid 65534 --regid "$group" --clear-groups "$@"
}
refused() { as "$1" netio-client list 2>&1 | grep -i permission; }
is_active() { systemctl is-active --quiet $unit; }
# It runs, and is not the process that it was.
is_another_than() {
    now=$(main_pid)
    [ "$1" -gt 0 ] && [ "${now:-0}" -gt 0 ] && [ "$now" -ne "$1" ]
}
restarted() { is NRestarts 1 && is_active && is_another_than "$1"; }

within 60 test -S /run/systemd/private
within 60 sh -c 'systemctl is-system-running | grep -qE "running|degraded"'
check 'its user and group are made' 'they are not' systemd-sysusers
check 'its folder is made' 'it is not' systemd-tmpfiles --create netio.conf

# The test's own: a watchdog that one can wait for, a log that one can read, and
# standing watches by name.
mkdir -p /etc/systemd/system/$unit.d
cat >/etc/systemd/system/$unit.d/test.conf <<END
[Service]
WatchdogSec=5s
TimeoutAbortSec=5s
StandardError=append:$log
END
systemctl daemon-reload

check 'enable --now starts the unit and its socket' 'it does not start' \
    systemctl enable --now netio-collector.socket $unit
check 'it is active' "it is $(property ActiveState)" is_active
# The unit is of the type notify, so it has just said so.
check 'it is ready only when probes are attached' 'they are not' info_has '"probe_state":"attached"'

user=$(id -u netio || echo missing)
check 'it runs as the user netio' "as $(status_of Uid)" [ "$(status_of Uid)" = "$user" ]
# BPF 39, PERFMON 38, SYS_PTRACE 19, DAC_READ_SEARCH 2.
for set in CapPrm CapEff CapBnd; do
    bits=$(status_of $set)
    check "$set is the unit's four" "it is $bits" [ "$bits" = 000000c000080004 ]
done
check 'no privilege can be gained' "NoNewPrivs is $(status_of NoNewPrivs)" [ "$(status_of NoNewPrivs)" = 1 ]
check 'system calls are filtered' "Seccomp is $(status_of Seccomp)" [ "$(status_of Seccomp)" = 2 ]

# Bytes whose number is known: a pattern of traffic says what it sent and received.
# With `killed`, they pass while there is no collector.
count_exactly() {
    rm -f /run/orders /run/truth /run/samples && mkfifo /run/orders
    netio-traffic run single-thread </run/orders >/run/truth 2>&1 &
    exec 4>/run/orders
    within 20 grep -q ready /run/truth || return 1
    pids=$(sed -n 's/.*"pids":\[\([0-9,]*\)\].*/\1/p' /run/truth)
    pid=${pids%%,*}
    netio-client watch --pid "$pid" --output json >/run/samples 2>/run/samples.err &
    client=$!
    within 20 test -s /run/samples || { cat /run/samples.err; return 1; }
    counting=$(main_pid)
    [ "$1" != killed ] || kill -KILL "$counting" || return 1
    echo go >&4
    within 60 grep -q truth /run/truth || return 1
    sent=$(sed -n "s/.*\"pid\":$pid,\"sent\":\([0-9]*\),.*/\1/p" /run/truth)
    received=$(sed -n "s/.*\"pid\":$pid,\"sent\":[0-9]*,\"received\":\([0-9]*\).*/\1/p" /run/truth)
    within 30 grep -q "\"sent_bytes_total\":$sent,\"received_bytes_total\":$received," /run/samples
    counted=$?
    echo exit >&4
    exec 4>&-
    kill $client 2>/dev/null
    wait
    if [ "$1" = killed ]; then
        is_another_than "$counting" || { echo "$counting goes on"; return 1; }
    else
        [ "$(main_pid)" = "$counting" ] || { echo "$counting does not go on"; return 1; }
    fi
    [ $counted -eq 0 ] && [ "$sent" -gt 0 ] && [ "$received" -gt 0 ] && return
    echo "truth $sent sent, $received received; counted: $(tail -n 1 /run/samples)"
    return 1
}
check 'it counts a process to the byte' 'it does not' count_exactly

check 'others cannot connect' 'that is not what they are told' \
    refused 65534
check 'members of the group can connect' 'a member cannot' \
    as "$(id -g netio)" netio-client list

# systemd has the socket: who comes while the collector starts again is served. That
# start takes so long that the client surely comes before its end.
before=$(main_pid)
printf '[Service]\nExecStartPre=/bin/sleep 4\n' >/etc/systemd/system/$unit.d/slow.conf
systemctl daemon-reload
systemctl restart --no-block $unit
check 'a restart takes its time' "it is $(property ActiveState)" within 20 is ActiveState activating
# Under emulation it can take longer than a client has patience.
answered() { netio-client list >>/run/answer 2>&1; }
none_was_refused() { [ -s /run/answer ] && ! grep -iE 'refused|no such file|no collector' /run/answer; }
check 'a client that comes during a restart is served' 'it is not' within 20 answered
check 'and none is refused' "$(cat /run/answer)" none_was_refused
check 'it is active after that' "it is $(property ActiveState)" within 30 is_active
check 'a restart makes another process' 'it is the same' is_another_than "$before"
rm /etc/systemd/system/$unit.d/slow.conf
systemctl daemon-reload

before=$(main_pid)
kill -KILL "$before"
check 'it is started again when it was killed' "$(property Result)" within 30 restarted "$before"
check 'it counts to the byte after that' 'it does not' count_exactly
check 'what passes while it is killed and started again is counted' 'it is not' count_exactly killed
check 'what it keeps is durable' "$(netio-client info | grep -i -A2 durab)" \
    info_has '"durable":true'

# In the fentry mode programs that come or go lose the calls under way. So other limits
# do not take over there, and doctor lets it be.
systemctl reset-failed $unit
fentry=/etc/systemd/system/$unit.d/fentry.conf
printf '[Service]\nEnvironment=NETIO_HOOKS=fentry\n' >$fentry
systemctl daemon-reload
systemctl restart $unit
check 'the fentry mode attaches' "$(netio-client info)" within 30 info_has '"hook_mode":"fentry"'
mkfifo /run/feed
busybox nc -l -p 7777 </run/feed >/dev/null &
exec 5>/run/feed
# 7777 in hexadecimal.
within 10 grep -q :1E61 /proc/net/tcp
bash -c 'exec 3<>/dev/tcp/127.0.0.1/7777 && exec busybox head -c 20000 <&3' >/dev/null &
reader=$!
sleep 1
check 'a process that waits for data is watched' 'it is not' netio-client watch --pid $reader --detach
watch=$(netio-client list --output json | sed -n 's/.*"watch_id":"\([^"]*\)".*/\1/p')
has_received() {
    netio-client watch --watch-id "$watch" --count 1 --output json | grep -F "\"received_bytes_total\":$1,"
}
before=$(main_pid)
echo Environment=NETIO_MAX_PROCESSES=300 >>$fentry
systemctl daemon-reload
: >$log
kill -KILL "$before"
check 'a killed collector comes with other limits' "$(property Result)" within 30 restarted "$before"
check 'the programs of before go on' 'that is not logged' within 20 grep 'the probes of before go on' $log
head -c 1234 /dev/zero >&5
check 'a call that waited all the time is counted' "$(netio-client list)" within 20 has_received 1234
check 'doctor does not try what is in use' 'it does' \
    sh -c 'netio-collector doctor | grep -F "not tried: a collector counts"'
head -c 777 /dev/zero >&5
check 'a call that waited meanwhile is counted, too' "$(netio-client list)" within 20 has_received 2011
exec 5>&-
kill $reader
rm $fentry
systemctl daemon-reload
systemctl restart $unit
within 30 is_active

systemctl reset-failed $unit
before=$(main_pid)
kill -STOP "$before"
check 'the watchdog starts it again when it hangs' "$(property Result)" within 60 restarted "$before"

# Each capability taken away: it goes on as far as it can, and says what is missing.
is_told_why() {
    timeout 20 netio-client watch --pid 1 --count 1 >/run/refused 2>&1
    [ $? -eq 1 ] || { cat /run/refused; return 1; }
    grep 'run as root, or with CAP_BPF and CAP_PERFMON' /run/refused || { cat /run/refused; return 1; }
}
for capability in CAP_BPF CAP_PERFMON CAP_SYS_PTRACE CAP_DAC_READ_SEARCH; do
    others=$(echo CAP_BPF CAP_PERFMON CAP_SYS_PTRACE CAP_DAC_READ_SEARCH | sed "s/$capability//")
    cat >/etc/systemd/system/$unit.d/less.conf <<END
[Service]
AmbientCapabilities=
AmbientCapabilities=$others
CapabilityBoundingSet=
CapabilityBoundingSet=$others
END
    systemctl daemon-reload
    : >$log
    check "without $capability it starts" "it is $(property ActiveState)" timeout 40 systemctl restart $unit
    check "without $capability it says so" 'it does not' grep -q "$capability is missing" $log
    case $capability in
        CAP_BPF | CAP_PERFMON)
            check "without $capability no probes are attached" 'they are' info_has '"probe_state":"failed"'
            check "without $capability a watch is told why" 'it is not' is_told_why
            ;;
        *) check "without $capability a pid is counted" 'it is not' count_exactly ;;
    esac
done
rm /etc/systemd/system/$unit.d/less.conf
systemctl daemon-reload
check 'with all of them again it starts' 'it does not' systemctl restart $unit

# From another host: from an address that is not the loopback's, by the README's file.
busybox ip address add 192.0.2.7/32 dev lo
netio-collector certs init /etc/netio/tls --host 192.0.2.7 >/run/certs 2>&1
sed -n '/^listen = \["tls:/,/^```/p' /usr/share/netio/README.md | grep -v '^```' >/etc/netio/collector.toml
remotely() {
    timeout 30 netio-client list --endpoint tls://192.0.2.7:7443 --tls-ca /etc/netio/tls/ca.pem \
        --tls-cert /etc/netio/tls/client.pem --tls-key /etc/netio/tls/client-key.pem
}
not_remotely() { ! remotely; }
listens() { is_active && grep -q 'listening on tls://0.0.0.0:7443' $log; }
grep -v IPAddress /usr/share/netio/remote.conf >/etc/systemd/system/$unit.d/remote.conf
systemctl daemon-reload
: >$log
systemctl restart $unit
check 'by the file of the README it listens for other hosts' "$(cat /run/certs)" within 30 listens
check 'the unit lets none of them in' 'it does' not_remotely
cp /usr/share/netio/remote.conf /etc/systemd/system/$unit.d/remote.conf
systemctl daemon-reload
: >$log
systemctl restart $unit
within 30 listens
check 'with remote.conf another host is served' 'it is not' within 5 remotely

before=$(main_pid)
check 'it stops when told to' 'it does not' timeout 15 systemctl stop netio-collector.socket $unit
check 'it stopped by itself' "$(property Result)" is Result success
is_gone() { [ "$1" -gt 0 ] && [ ! -d "/proc/$1" ]; }
check 'its process is gone' 'it is not' is_gone "$before"
echo done
