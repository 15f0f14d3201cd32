//! How many pods the sales need. The two Deployments are shared by all sales of a release, so no sale scales them: each
//! states its demand, and the demands are added up, between floor and ceiling.
use std::collections::HashMap;

use seckill_protocol::index::Millis;

use crate::sale::{PodSchedule, SaleKey, Standing};

/// A Deployment as it was observed last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    pub name: String,
    pub bounds: ReplicaBounds,
    pub ready: i32,
    /// The autoscaler that controls its replicas.
    pub autoscaler: Option<String>,
    /// Why some of its pods can't be created or scheduled.
    pub blocked: Option<String>,
}

/// The replicas that a Deployment may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicaBounds {
    pub floor: i32,
    pub ceiling: i32,
}

impl ReplicaBounds {
    /// The replicas to set for a demand. While not all FlashSales are known, an unseen demand is not a demand of zero, so
    /// the Deployment must not shrink.
    pub fn replicas(self, demand: i32, present: i32, may_shrink: bool) -> i32 {
        let least = if may_shrink {
            self.floor
        } else {
            present.max(self.floor)
        };
        demand.max(least).min(self.ceiling)
    }
}

/// The pods that must be ready for a sale: those that it asks for, and those of the sales that start before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    pub api: i32,
    pub worker: i32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workloads {
    /// False: somebody else starts the programs, and nothing is known of them.
    pub are_managed: bool,
    pub api: Result<Workload, String>,
    pub worker: Result<Workload, String>,
    /// Of each sale that needs pods now.
    pub needs: HashMap<SaleKey, Needs>,
}

/// The pods that a sale lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shortage {
    Unknown(String),
    Starting(String),
    Ceiling(String),
    Autoscaler(String),
}

impl Default for Workloads {
    fn default() -> Self {
        let unseen = || Err("the Deployments were not checked yet".to_owned());
        Workloads {
            are_managed: true,
            api: unseen(),
            worker: unseen(),
            needs: HashMap::new(),
        }
    }
}

impl Workloads {
    /// Of an operator that has no Deployments to scale.
    pub fn not_managed() -> Self {
        Workloads {
            are_managed: false,
            ..Workloads::default()
        }
    }

    /// What a sale lacks of the pods that it needs. A sale that asks for none needs the floor, and at least one pod.
    pub fn shortage(&self, sale: &SaleKey) -> Option<Shortage> {
        if !self.are_managed {
            return None;
        }
        let Some(needs) = self.needs.get(sale) else {
            return Some(Shortage::Starting("its pods are about to be requested".to_owned()));
        };
        shortage(&self.api, needs.api).or_else(|| shortage(&self.worker, needs.worker))
    }

    /// Whether it is known that no pod answers buyers.
    pub fn lacks_api(&self) -> bool {
        self.api.as_ref().is_ok_and(|api| api.ready == 0)
    }

    /// The autoscalers that control one of the Deployments.
    pub fn autoscalers(&self) -> Vec<&str> {
        let known = [&self.api, &self.worker].into_iter().filter_map(|w| w.as_ref().ok());
        known.filter_map(|w| w.autoscaler.as_deref()).collect()
    }
}

fn shortage(workload: &Result<Workload, String>, needed: i32) -> Option<Shortage> {
    let workload = match workload {
        Ok(workload) => workload,
        Err(why) => return Some(Shortage::Unknown(why.clone())),
    };
    let Workload {
        name,
        bounds: ReplicaBounds { floor, ceiling },
        ready,
        autoscaler,
        blocked,
    } = workload;
    let needed = needed.max(*floor).max(1);
    if *ready >= needed {
        return None;
    }
    let mut have = format!("{name} has {ready} ready pods of {needed}");
    if let Some(why) = blocked {
        have = format!("{have}; {why}");
    }
    Some(match autoscaler {
        Some(autoscaler) => Shortage::Autoscaler(format!("{have}; {autoscaler} controls its replicas")),
        None if needed > *ceiling => Shortage::Ceiling(format!(
            "{have}, for this sale and those that start before it; the release's ceiling is {ceiling}"
        )),
        None => Shortage::Starting(have),
    })
}

/// Adds up the demands in the order of the starts: at the ceiling the sales that start first have their pods. More workers
/// than the log has partitions would have nothing to do.
pub fn needs(mut sales: Vec<(SaleKey, PodSchedule)>, partitions: i32) -> HashMap<SaleKey, Needs> {
    sales.sort_by_cached_key(|(key, schedule)| (schedule.opens_at, key.clone()));
    let mut sum = Needs::default();
    let added = sales.into_iter().map(|(key, schedule)| {
        let demand = schedule.demand;
        sum.api = sum.api.saturating_add(demand.api_replicas.unwrap_or_default());
        sum.worker = sum.worker.saturating_add(demand.worker_replicas.unwrap_or_default());
        sum.worker = sum.worker.min(partitions);
        (key, sum)
    });
    added.collect()
}

/// The demand of all sales together: at least one pod if any sale needs pods. A sale that settles needs a worker even when
/// its FlashSale is gone, and so does one that waits for the ledger, however far its start is.
pub fn total_demand(needs: &HashMap<SaleKey, Needs>, needs_worker: bool) -> Needs {
    let most = |of: fn(&Needs) -> i32| needs.values().map(|n| of(n).max(1)).max().unwrap_or_default();
    Needs {
        api: most(|n| n.api),
        worker: most(|n| n.worker).max(i32::from(needs_worker)),
    }
}

/// A sale needs pods from its lead time until the end of its cool-down, and until it is settled. A sale is settled once
/// the ledger has read all that the log has of it, so no worker is removed that still has to store its orders.
///
/// `standing` is unknown before the first reconcile of the sale, which may be long if MySQL is away: then its times decide.
/// `None`: its end has passed, and it may be settled or not; for such a sale no pod is added, and none is removed.
pub fn needs_pods(schedule: &PodSchedule, standing: Option<Standing>, now: Millis) -> Option<bool> {
    match standing {
        Some(Standing::Refused) => Some(false),
        _ if now < schedule.preheat_at => Some(false),
        Some(Standing::Settled) => Some(now < schedule.cool_down_until),
        Some(Standing::AwaitingLedger | Standing::Unsettled) => Some(true),
        None => (now < schedule.ends_at).then_some(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sale::Demand;
    use crate::sale::tests::desired;

    fn sale(name: &str, starts_at: Millis, api: Option<i32>, worker: Option<i32>) -> (SaleKey, PodSchedule) {
        let mut desired = desired();
        desired.starts_at = starts_at;
        desired.demand = Demand {
            api_replicas: api,
            worker_replicas: worker,
        };
        (SaleKey::new("shop", name), desired.pod_schedule())
    }

    fn workload(ready: i32) -> Workload {
        Workload {
            name: "w".into(),
            bounds: ReplicaBounds { floor: 2, ceiling: 5 },
            ready,
            autoscaler: None,
            blocked: None,
        }
    }

    fn needed(of: &HashMap<SaleKey, Needs>, name: &str) -> (i32, i32) {
        let needs = of[&SaleKey::new("shop", name)];
        (needs.api, needs.worker)
    }

    #[test]
    fn demands_add_up_by_start_and_workers_stop_at_the_partitions() {
        let needs = needs(
            vec![
                sale("late", 103, Some(4), Some(2)),
                sale("none", 102, None, None),
                sale("early", 101, Some(3), Some(1)),
                // Of two that start together either may be the first, but always the same.
                sale("early-too", 101, Some(1), Some(7)),
            ],
            8,
        );
        assert_eq!(needed(&needs, "early"), (3, 1));
        assert_eq!(needed(&needs, "early-too"), (4, 8));
        assert_eq!(needed(&needs, "none"), (4, 8));
        assert_eq!(needed(&needs, "late"), (8, 8));
        assert_eq!(total_demand(&needs, false), Needs { api: 8, worker: 8 });
    }

    #[test]
    fn a_sale_without_a_demand_needs_one_pod_and_no_sale_none() {
        let asking_nothing = needs(vec![sale("a", 101, None, None)], 8);
        assert_eq!(total_demand(&asking_nothing, false).api, 1);
        assert_eq!(total_demand(&HashMap::new(), false), Needs::default());
        assert_eq!(total_demand(&HashMap::new(), true), Needs { api: 0, worker: 1 });
    }

    #[test]
    fn replicas_stay_in_their_bounds_and_shrink_only_when_all_is_known() {
        let bounds = ReplicaBounds { floor: 2, ceiling: 5 };
        for (demand, present, may_shrink, expected) in [
            (0, 4, true, 2),
            (0, 4, false, 4),
            (3, 4, true, 3),
            (9, 2, true, 5),
            (1, 7, false, 5),
        ] {
            let replicas = bounds.replicas(demand, present, may_shrink);
            assert_eq!(replicas, expected, "{demand} {present} {may_shrink}");
        }
    }

    #[test]
    fn at_the_ceiling_the_first_sale_has_its_pods_and_the_second_is_told() {
        let workloads = Workloads {
            are_managed: true,
            api: Ok(workload(5)),
            worker: Ok(workload(2)),
            needs: needs(
                vec![sale("second", 102, Some(2), None), sale("first", 101, Some(4), None)],
                8,
            ),
        };
        assert_eq!(workloads.shortage(&SaleKey::new("shop", "first")), None);
        assert!(matches!(
            workloads.shortage(&SaleKey::new("shop", "second")),
            Some(Shortage::Ceiling(what)) if what.contains("5 ready pods of 6") && what.contains("ceiling is 5")
        ));
        // As many as the ceiling allows are only starting.
        let within = shortage(&Ok(workload(4)), 5);
        assert!(matches!(within, Some(Shortage::Starting(_))), "{within:?}");
    }

    #[test]
    fn pods_are_needed_from_the_lead_time_to_the_cool_down() {
        let mut desired = desired();
        (desired.starts_at, desired.ends_at) = (100_000, 200_000);
        (desired.lead_time_seconds, desired.cool_down_seconds) = (10, 20);
        let needs = |standing, seconds: u64| needs_pods(&desired.pod_schedule(), Some(standing), seconds * 1000);
        assert_eq!(needs(Standing::Unsettled, 89), Some(false));
        assert_eq!(needs(Standing::Unsettled, 90), Some(true));
        assert_eq!(needs(Standing::Settled, 219), Some(true));
        assert_eq!(needs(Standing::Settled, 220), Some(false));
        // Before its first reconcile, a sale whose end has passed asks for nothing and removes nothing.
        let unknown = |seconds: u64| needs_pods(&desired.pod_schedule(), None, seconds * 1000);
        assert_eq!(
            [unknown(89), unknown(199), unknown(200), unknown(219), unknown(220)],
            [Some(false), Some(true), None, None, None]
        );
    }

    #[test]
    fn pods_stay_until_the_sale_is_settled() {
        let needs = needs_pods(&desired().pod_schedule(), Some(Standing::Unsettled), Millis::MAX);
        assert_eq!(needs, Some(true));
    }

    #[test]
    fn a_refused_sale_needs_no_pods() {
        let desired = desired();
        let needs = needs_pods(&desired.pod_schedule(), Some(Standing::Refused), desired.starts_at);
        assert_eq!(needs, Some(false));
    }

    #[test]
    fn the_reason_for_missing_pods_is_part_of_the_shortage() {
        let refused = "pods can't be created: pods \"w-1\" is forbidden: exceeded quota: compute";
        let workloads = Workloads {
            are_managed: true,
            api: Ok(workload(2)),
            worker: Ok(Workload {
                blocked: Some(refused.to_owned()),
                ..workload(1)
            }),
            needs: needs(vec![sale("a", 101, None, None)], 8),
        };
        assert_eq!(
            workloads.shortage(&SaleKey::new("shop", "a")),
            Some(Shortage::Starting(format!("w has 1 ready pods of 2; {refused}")))
        );
    }

    #[test]
    fn an_autoscaler_in_charge_is_named() {
        let workloads = Workloads {
            are_managed: true,
            api: Ok(Workload {
                autoscaler: Some("HorizontalPodAutoscaler a".to_owned()),
                ..workload(1)
            }),
            worker: Ok(workload(2)),
            needs: needs(vec![sale("a", 101, None, None)], 8),
        };
        assert!(matches!(
            workloads.shortage(&SaleKey::new("shop", "a")),
            Some(Shortage::Autoscaler(what)) if what.contains("HorizontalPodAutoscaler a")
        ));
        assert_eq!(workloads.autoscalers(), ["HorizontalPodAutoscaler a"]);
    }

    #[test]
    fn a_sale_without_requested_pods_waits_for_them() {
        let workloads = Workloads {
            are_managed: true,
            api: Ok(workload(5)),
            worker: Ok(workload(5)),
            needs: HashMap::new(),
        };
        let shortage = workloads.shortage(&SaleKey::new("shop", "new"));
        assert!(matches!(shortage, Some(Shortage::Starting(_))), "{shortage:?}");
    }
}
