#!/bin/sh
# Grants the Kafka users of Seckill their rights, and no others. Run it once, as an administrator of Kafka:
#
#   BOOTSTRAP=kafka-0:9092 ADMIN=admin.properties sh examples/kafka-acls.sh
#
# ADMIN is the file that kafka-acls.sh takes as --command-config. All programs can share one user: set USERS=seckill.
# With client certificates, a user is the subject of the certificate, such as CN=seckill.
set -eu
acls=${KAFKA_ACLS:-kafka-acls.sh}
topic=${TOPIC:-seckill-orders}
group=${GROUP:-seckill-order-worker}

grant() {
    user=$1
    shift
    $acls --bootstrap-server "$BOOTSTRAP" ${ADMIN:+--command-config "$ADMIN"} --add --allow-principal "User:$user" "$@"
}

# All three programs append to the log and read it. A reader looks for the coordinator of the group "seckill", which it never
# joins; without the right it still reads, but the brokers refuse that twice a second.
for user in ${USERS:-operator api worker}; do
    grant "$user" --operation Read --operation Write --operation Describe --topic "$topic"
    grant "$user" --operation Describe --group seckill
done
# The operator checks the settings of the topic before a sale.
for user in ${USERS:-operator}; do
    grant "$user" --operation DescribeConfigs --topic "$topic"
done
# The workers share the partitions as one consumer group.
for user in ${USERS:-worker}; do
    grant "$user" --operation Read --group "$group"
done
# The migrate Job creates the topic if it is missing.
for user in ${USERS:-migrate}; do
    grant "$user" --operation Create --operation Describe --operation DescribeConfigs --topic "$topic"
done
