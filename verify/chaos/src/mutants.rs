//! Rules of the protocol that a build breaks on purpose. A checker that misses one of them proves nothing.
pub struct Mutant {
    /// Also the name of the rule at its place in the programs.
    pub name: &'static str,
    pub breaks: &'static str,
    /// Names of the faults that make the broken rule visible.
    pub faults: &'static [&'static str],
    /// One of these invariants must find it.
    pub caught_by: &'static [&'static str],
}

pub const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "reply-before-read-back",
        breaks: "seckill-api returns the order number before it has read the record back",
        faults: &["sold-and-lost"],
        caught_by: &["I2", "I6", "I9"],
    },
    Mutant {
        name: "no-relay",
        breaks: "the relay never publishes the outbox entries of a dead process",
        faults: &["abort-at-api.before-append"],
        caught_by: &["I3", "I13"],
    },
    Mutant {
        name: "position-apart",
        breaks: "the log position is committed before the orders",
        faults: &["abort-at-worker.before-commit"],
        caught_by: &["I2", "I12"],
    },
    Mutant {
        name: "rid-ignored",
        breaks: "an index is trusted although Redis has a new replication id",
        faults: &["redis-restart-truncatedaof"],
        caught_by: &["I1", "I2", "I3", "I6", "I7", "I12"],
    },
    Mutant {
        name: "epoch-ignored",
        breaks: "orders are stored whatever their epoch",
        faults: &["record-behind-barrier", "failover"],
        caught_by: &["I9", "I12"],
    },
    Mutant {
        name: "rebuild-without-log",
        breaks: "an index is rebuilt from MySQL alone",
        faults: &["rebuild-from-log"],
        caught_by: &["I1", "I3", "I6", "I12"],
    },
    Mutant {
        name: "refusal-without-freshness",
        breaks: "seckill-api refuses although it has not read the log to its end",
        faults: &["api-misses-failover"],
        caught_by: &["I6"],
    },
    Mutant {
        name: "barrier-not-read-back",
        breaks: "the operator trusts a barrier that Kafka acknowledged, and does not read it back",
        faults: &["barrier-lost"],
        caught_by: &["I13"],
    },
    Mutant {
        name: "connection-kept",
        breaks: "no program replaces a connection to Redis that leads to a replica",
        faults: &["switchover"],
        caught_by: &["I13"],
    },
    Mutant {
        name: "absence-ends-sales",
        breaks: "the operator takes a FlashSale that it does not find for a deleted one",
        faults: &["etcd-restored"],
        caught_by: &["I15"],
    },
    Mutant {
        name: "lost-row-forgotten",
        breaks: "order-worker reads over the records of a sale whose row is lost",
        faults: &["mysql-loses-a-sale"],
        caught_by: &["I2", "I12"],
    },
    Mutant {
        name: "orders-unbounded",
        breaks: "the operator ignores spec.ordersEverMax",
        faults: &["buy-and-cancel"],
        caught_by: &["I14"],
    },
    Mutant {
        name: "limit-of-one-order",
        breaks: "the index compares each order with the limit, not all units of the buyer",
        faults: &["kill-worker"],
        caught_by: &["I5"],
    },
    Mutant {
        name: "reserve-ignored",
        breaks: "the index sells to anyone what is kept for a tier",
        faults: &["kill-worker"],
        caught_by: &["I16"],
    },
    Mutant {
        name: "gone-callers-served",
        breaks: "seckill-api buys for callers who have hung up before their turn",
        faults: &["callers-hang-up"],
        caught_by: &["I14"],
    },
];

pub fn find(name: &str) -> Option<&'static Mutant> {
    MUTANTS.iter().find(|mutant| mutant.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults;

    #[test]
    fn mutants_name_existing_faults() {
        for mutant in MUTANTS {
            for name in mutant.faults {
                assert!(faults::find(name).is_some(), "{}: {name}", mutant.name);
            }
        }
    }
}
