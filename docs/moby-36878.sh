# moby/moby#36878: a sender of logs keeps one UDP socket, and a task of its service is removed.
container "$BENCH_CLIENT" bash -c '
    exec 3<>/dev/udp/my-web/80 # one socket, which the sender keeps
    ask() {
        printf w >&3
        answer=$(timeout 2 head -n 1 <&3) && backend=${answer%% *} && echo "answered by my-web.$backend"
    }
    ask
    service remove "my-web.$backend"
    ask && echo "moby/moby#36878 is not here: the socket goes on" || echo "moby/moby#36878 is here: no answer"
'
