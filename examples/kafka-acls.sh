#!/bin/sh
# Grants the Kafka users of Seckill their rights, and no others. Run it once, as an administrator of Kafka:
#
#   BOOTSTRAP=kafka-0:9092 ADMIN=admin.properties sh examples/kafka-acls.sh
#
# ADMIN is the file that kafka-acls.sh takes as --command-config. All programs can share one user: set USERS=seckill.
# With client certificates, a user is the subject of the certificate, such as CN=seckill.
# To replace passwords, grant the same rights to second users first: SUFFIX=-2 means operator-2, api-2, worker-2 and migrate-2.
set -eu
acls=${KAFKA_ACLS:-kafka-acls.sh}
topic=${TOPIC:-seckill-orders}
group=${GROUP:-seckill-order-worker}
operator=operator${SUFFIX:-} api=api${SUFFIX:-} worker=worker${SUFFIX:-} migrate=migrate${SUFFIX:-}

grant() {
    users=$1
    shift
    for user in $users; do
        set -- "$@" --allow-principal "User:$user"
    done
    $acls --bootstrap-server "$BOOTSTRAP" ${ADMIN:+--command-config "$ADMIN"} --add "$@"
}

# All three programs append to the log and read it. A reader looks for the coordinator of the group "seckill", which it never
# joins; without the right it still reads, but the brokers refuse that twice a second.
grant "${USERS:-$operator $api $worker}" --operation Read --operation Write --operation Describe --topic "$topic"
grant "${USERS:-$operator $api $worker}" --operation Describe --group seckill
# The operator checks the settings of the topic before a sale.
grant "${USERS:-$operator}" --operation DescribeConfigs --topic "$topic"
# The workers share the partitions as one consumer group.
grant "${USERS:-$worker}" --operation Read --group "$group"
# The migrate Job creates the topic if it is missing.
grant "${USERS:-$migrate}" --operation Create --operation Describe --operation DescribeConfigs --topic "$topic"
