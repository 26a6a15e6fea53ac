#!/usr/bin/env bash
# Creates, checks and widens the topics of Posthaste with Kafka's own kafka-topics.sh. It can be run again at any time:
# what is right is left alone.
#
# It makes the topics; the consumer groups' starts are set by `posthaste topics create`, which leaves these topics as
# they are. The table below is compared with the program by `cargo xtask tidy`.
set -euo pipefail

usage() {
    cat <<'END'
Usage: kafka-topics.sh [create | check | widen | plan]

  create  makes the topics that are missing, changes none, and then checks (the default)
  check   compares the topics with what they should be
  widen   gives topics that have fewer partitions than PARTITIONS the missing ones, and then checks
  plan    prints every topic with its partitions, replication and settings, and asks nobody

Environment:
  BOOTSTRAP          a broker's host:port, or several with commas between (localhost:9092)
  PREFIX             the topics are called PREFIX.critical and so on, as in broker.prefix (events)
  PARTITIONS         partitions of each topic, as in broker.partitions (12)
  REPLICATION        copies of each topic, as in broker.kafka.replication; in production 3 (1)
  COMMAND_CONFIG     a file for the tools' --command-config: TLS, user and password (none)
  JOBS               topics that are made at the same time; each starts a Java machine (4)
  KEYS_TIMEOUT_MS    how long `widen` waits for another record of PREFIX.keys, in milliseconds (8000)
  KAFKA_TOPICS_CMD   Kafka's kafka-topics.sh, as a shell would read it (looked for in $KAFKA_HOME/bin, /opt/kafka/bin
                     and the PATH)
  KAFKA_CONSUMER_CMD Kafka's kafka-console-consumer.sh, for `widen` (beside KAFKA_TOPICS_CMD)
  ALLOW_WIDEN        `widen` works only with "stopped", see below

`widen` sends the same key to another partition from then on. So every service must be stopped first and started again
afterwards, and no event that is under way may have an orderingKey: two of one key could overtake each other.
PREFIX.keys tells of the keys that are in use, and widen refuses while there are any. Events that wait (for a retry,
for their time) with a key that is idle cannot be seen from here: say ALLOW_WIDEN=stopped when there are none.
Compacted topics are never widened: a key's old value would stay in its old partition.

Exit code: 0 all is well, 1 something is not as it should be or could not be done, 2 wrong use.
END
}

# Each topic without its prefix, and how the broker must clean it up.
TOPICS='
critical             delete
default              delete
retry                delete
retry.critical       delete
failed               delete
failed.critical      delete
delay.near           delete
delay.near.critical  delete
delay.2s             delete
delay.8s             delete
delay.30s            delete
delay.1m             delete
delay.2m             delete
delay.4m             delete
delay.8m             delete
delay.30m            delete
delay.2h             delete
delay.8h             delete
delay.1d             delete
dead-letter          delete
cancel               compact
status               delete
control              compact
definitions          compact
keys                 compact
inbox                delete
broadcasts           delete
'

# What every topic is set to besides. The broker itself must expire nothing: events would be lost. LogAppendTime: the
# wheel counts from when the broker took a record.
settings_of_all() {
    echo "retention.ms=-1 retention.bytes=-1 segment.bytes=134217728 segment.ms=86400000 message.timestamp.type=LogAppendTime min.insync.replicas=$((REPLICATION >= 3 ? 2 : 1))"
}

say() { printf 'kafka-topics.sh: %s\n' "$*" >&2; }

# Wrong use: what is wrong, and what would be right.
refuse() {
    say "$*"
    exit 2
}

fail() {
    say "$*"
    exit 1
}

# within <name> <value> <least> <most>
within() {
    if [[ ! $2 =~ ^[0-9]{1,6}$ ]] || ((10#$2 < $3 || 10#$2 > $4)); then
        refuse "$1 is \"$2\"; accepted: a number from $3 to $4"
    fi
}

read_environment() {
    BOOTSTRAP=${BOOTSTRAP:-localhost:9092}
    PREFIX=${PREFIX:-events}
    PARTITIONS=${PARTITIONS:-12}
    REPLICATION=${REPLICATION:-1}
    JOBS=${JOBS:-4}
    KEYS_TIMEOUT_MS=${KEYS_TIMEOUT_MS:-8000}
    [[ $BOOTSTRAP =~ ^[^,:[:space:]]+:[0-9]{1,5}(,[^,:[:space:]]+:[0-9]{1,5})*$ ]] ||
        [[ $BOOTSTRAP =~ ^\[[0-9a-fA-F:]+\]:[0-9]{1,5}$ ]] ||
        refuse "BOOTSTRAP is \"$BOOTSTRAP\"; accepted: host:port, or several with commas between"
    # Kafka's limit is 249 characters for the whole name.
    if [[ ! $PREFIX =~ ^[a-zA-Z0-9._-]+$ ]] || ((${#PREFIX} > 200)); then
        refuse "PREFIX is \"$PREFIX\"; accepted: 1 to 200 letters, digits, '.', '_' and '-'"
    fi
    within PARTITIONS "$PARTITIONS" 1 10000
    within REPLICATION "$REPLICATION" 1 100
    within JOBS "$JOBS" 1 64
    within KEYS_TIMEOUT_MS "$KEYS_TIMEOUT_MS" 1000 600000
    PARTITIONS=$((10#$PARTITIONS)) REPLICATION=$((10#$REPLICATION)) JOBS=$((10#$JOBS))
    if [[ -n ${COMMAND_CONFIG:-} && ! -r $COMMAND_CONFIG ]]; then
        refuse "COMMAND_CONFIG: cannot read $COMMAND_CONFIG"
    fi
}

# tool <script of Kafka's>: where it is, quoted for a shell. Not this script, which has the same name.
tool() {
    local folder
    for folder in "${KAFKA_HOME:-/opt/kafka}/bin" /opt/kafka/bin; do
        if [[ -x $folder/$1 ]]; then
            printf '%q' "$folder/$1"
            return
        fi
    done
    # Some packages leave the ending off.
    command -v "${1%.sh}" && return
    local found
    found=$(command -v "$1") && [[ ! $found -ef ${BASH_SOURCE[0]} ]] && printf '%q' "$found"
}

find_topics_command() {
    if [[ -z ${KAFKA_TOPICS_CMD:-} ]]; then
        KAFKA_TOPICS_CMD=$(tool kafka-topics.sh) ||
            refuse "Kafka's kafka-topics.sh is not found; set KAFKA_HOME to Kafka's folder, or KAFKA_TOPICS_CMD to the tool"
    fi
}

# run <command as a shell reads it> <arguments...>
run() {
    local command=$1
    shift
    eval "$command \"\$@\""
}

kafka_topics() {
    run "$KAFKA_TOPICS_CMD" --bootstrap-server "$BOOTSTRAP" ${COMMAND_CONFIG:+--command-config "$COMMAND_CONFIG"} "$@"
}

# The plan: name, partitions, replication, and settings with commas between; a line for each topic.
plan() {
    local suffix cleanup settings
    settings=$(settings_of_all)
    while read -r suffix cleanup; do
        [[ -n $suffix ]] || continue
        echo "$PREFIX.$suffix $PARTITIONS $REPLICATION cleanup.policy=$cleanup,${settings// /,}"
    done <<<"$TOPICS"
}

# The topics named on standard input, as an expression that matches them and nothing else.
matching() {
    awk '{ gsub(/\./, "\\."); all = all (NR > 1 ? "|" : "") $1 } END { print all }'
}

# What is there of the plan, in the same form: name, partitions, replication, settings.
describe() {
    local said
    # --if-exists: that none is there is an answer.
    said=$(kafka_topics --describe --if-exists --topic "$(plan | matching)" 2>&1) ||
        fail "asking $BOOTSTRAP for its topics failed: $(reason <<<"$said")"
    awk -F '\t' '/PartitionCount:/ {
        name = ""; partitions = 0; replication = 0; settings = "-"
        for (i = 1; i <= NF; i++) {
            split($i, part, ": *")
            if (part[1] == "Topic") name = part[2]
            if (part[1] == "PartitionCount") partitions = part[2]
            if (part[1] == "ReplicationFactor") replication = part[2]
            if (part[1] == "Configs" && part[2] != "") settings = part[2]
        }
        print name, partitions, replication, settings
    }' <<<"$said"
}

# The first line of the tool's words that says what went wrong.
reason() {
    awk '/^Error while|Exception|rror:|nrecognized|not found/ { print; found = 1; exit } { last = $0 } END { if (!found) print (last == "" ? "it said nothing" : last) }'
}

# Of the plan, what <there> has not: lines of the plan.
missing() {
    awk 'NR == FNR { there[$1] = 1; next } !($1 in there)' <(printf '%s\n' "$1") <(plan)
}

create_one() {
    local name=$1 partitions=$2 replication=$3 settings=$4 said setting arguments=()
    for setting in ${settings//,/ }; do
        arguments+=(--config "$setting")
    done
    if said=$(kafka_topics --create --if-not-exists --topic "$name" \
        --partitions "$partitions" --replication-factor "$replication" "${arguments[@]}" 2>&1); then
        echo "created $name: $partitions partitions, replication $replication"
    else
        say "$name cannot be created: $(reason <<<"$said")"
        return 1
    fi
}

# The lines of the plan on standard input, JOBS at a time: the tool makes one topic a call.
create_all() {
    local line failed=0 running=()
    while read -r line; do
        # shellcheck disable=SC2086 # the four words of the line
        create_one $line &
        running+=($!)
        if ((${#running[@]} >= JOBS)); then
            wait "${running[0]}" || failed=1
            running=("${running[@]:1}")
        fi
    done
    local job
    for job in ${running[@]+"${running[@]}"}; do
        wait "$job" || failed=1
    done
    return $failed
}

# Compares the plan with <there>. A line for each topic; fails if any is not as it should be.
compare() {
    awk -v bootstrap="$BOOTSTRAP" '
        function bad(text) { print "WRONG " name ": " text; wrong = 1; bads++ }
        NR == FNR { if (NF) { partitions[$1] = $2; replication[$1] = $3; settings[$1] = $4 }; next }
        {
            name = $1; bads = 0; note = ""
            if (!(name in partitions)) { bad("is missing; `kafka-topics.sh create` makes it"); next }
            compacted = $4 ~ /cleanup.policy=compact/
            if (partitions[name] + 0 < $2 + 0 && compacted) note = " (compacted: keeps the number it has)"
            else if (partitions[name] + 0 < $2 + 0)
                bad("has " partitions[name] " partitions, PARTITIONS says " $2 "; `kafka-topics.sh widen` adds the others")
            else if (partitions[name] + 0 > $2 + 0) note = " (PARTITIONS says " $2 "; none can be taken away)"
            if (replication[name] + 0 < $3 + 0)
                bad("is kept " replication[name] " times, REPLICATION says " $3 "; kafka-reassign-partitions.sh adds copies")
            delete has
            count = split(settings[name], list, ",")
            for (i = 1; i <= count; i++) { at = index(list[i], "="); has[substr(list[i], 1, at - 1)] = substr(list[i], at + 1) }
            count = split($4, list, ",")
            for (i = 1; i <= count; i++) {
                at = index(list[i], "="); key = substr(list[i], 1, at - 1); wanted = substr(list[i], at + 1)
                is = key in has ? has[key] : "not set"
                if (is != wanted)
                    bad(key " is " is ", it should be " wanted "; mend it with kafka-configs.sh" \
                        " --bootstrap-server " bootstrap " --alter --entity-type topics --entity-name " name " --add-config " key "=" wanted)
            }
            if (!bads) print "ok    " name ": " partitions[name] " partitions, replication " replication[name] note
        }
        END { exit wrong }
    ' <(printf '%s\n' "$1") <(plan)
}

check() {
    local there
    there=$(describe)
    compare "$there"
}

create() {
    local there lacking
    there=$(describe)
    lacking=$(missing "$there")
    if [[ -n $lacking ]]; then
        create_all <<<"$lacking" || fail "not every topic could be created"
        there=$(describe)
    fi
    compare "$there"
}

# Refuses while PREFIX.keys has a value that was not deleted again: an ordering key that is in use.
refuse_keys_in_use() {
    local command=${KAFKA_CONSUMER_CMD:-} words said keys
    if [[ -z $command ]]; then
        command=${KAFKA_TOPICS_CMD/kafka-topics/kafka-console-consumer}
        [[ $command != "$KAFKA_TOPICS_CMD" ]] ||
            refuse "KAFKA_CONSUMER_CMD is not set, and KAFKA_TOPICS_CMD does not tell where kafka-console-consumer.sh is"
    fi
    words=$(mktemp)
    # It ends when nothing comes for a while; what it says about that goes to the file. The options are called as every
    # Kafka 4 calls them.
    said=$(run "$command" --bootstrap-server "$BOOTSTRAP" ${COMMAND_CONFIG:+--consumer.config "$COMMAND_CONFIG"} \
        --topic "$PREFIX.keys" --from-beginning --isolation-level read_committed --timeout-ms "$KEYS_TIMEOUT_MS" \
        --property print.key=true --property null.literal=- 2>"$words") || {
        said=$(cat "$words")
        rm -f "$words"
        fail "reading $PREFIX.keys failed: $(reason <<<"$said")"
    }
    rm -f "$words"
    keys=$(awk -F '\t' 'NF > 1 { value[$1] = $2 } END { for (key in value) if (value[key] != "-") count++; print count + 0 }' <<<"$said")
    ((keys == 0)) || fail "$keys records of $PREFIX.keys are in use: events with an orderingKey are under way, and would" \
        "overtake each other in other partitions. Let them finish first."
}

widen() {
    local there narrow said
    there=$(describe)
    [[ -z $(missing "$there") ]] || {
        compare "$there" || fail "topics are missing: \`kafka-topics.sh create\` comes first"
    }
    narrow=$(awk -v wanted="$PARTITIONS" 'NR == FNR { has[$1] = $2; next }
        has[$1] + 0 < wanted + 0 && $4 !~ /cleanup.policy=compact/ { print $1 }' <(printf '%s\n' "$there") <(plan))
    if [[ -n $narrow ]]; then
        [[ ${ALLOW_WIDEN:-} == stopped ]] ||
            refuse "more partitions send the same key elsewhere: stop every service, make sure that no event with an" \
                "orderingKey is under way, then say so with ALLOW_WIDEN=stopped (kafka-topics.sh --help tells more)"
        refuse_keys_in_use
        said=$(kafka_topics --alter --topic "$(matching <<<"$narrow")" --partitions "$PARTITIONS" 2>&1) ||
            fail "the topics cannot be widened: $(reason <<<"$said")"
        there=$(describe)
    fi
    compare "$there"
}

main() {
    (($# <= 1)) || refuse "one word at most; accepted: create, check, widen, plan, --help"
    local mode=${1:-create}
    case $mode in
        -h | --help | help) usage && exit ;;
        create | check | widen | plan) read_environment ;;
        *) refuse "\"$mode\" is not known; accepted: create, check, widen, plan, --help" ;;
    esac
    [[ $mode == plan ]] || find_topics_command
    case $mode in
        plan) plan ;;
        create) create ;;
        check) check ;;
        widen) widen ;;
    esac
}

main "$@"
