//! Everything that is known of a sale, read before anything is decided. What can't be read is unknown, never zero.
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;
use seckill_crds::{FlashSale, FlashSaleSpec, Preflight};
use seckill_ledger::{NewSale, Offer, Sale, SaleTerms};
use seckill_protocol::index::{SaleState, Server};
use seckill_protocol::recovery::{self, Found, Known, Need};
use seckill_protocol::{Epoch, Record};
use seckill_stock::IndexState;

use crate::balance::{Sample, Weighed};
use crate::error::{OperatorError, Trouble};
use crate::memory::{Key, Scales};
use crate::preflight::{self, Servers, Verdict};
use crate::run::Operator;
use crate::scale::Workloads;

/// Holds a sale back as `spec.suspend` does; either suffices.
pub const SUSPEND_ANNOTATION: &str = "seckill.dev/suspend";

/// Unix time in milliseconds.
pub type Millis = u64;

/// What the FlashSale says, as far as it matters here.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    pub uid: String,
    /// By the API server's clock, in whole seconds.
    pub created_at: Millis,
    pub spec: FlashSaleSpec,
    pub suspended: bool,
}

impl Wanted {
    pub fn of(object: &FlashSale) -> Self {
        let annotated = object
            .annotations()
            .get(SUSPEND_ANNOTATION)
            .is_some_and(|v| v != "false");
        Wanted {
            uid: object.uid().unwrap_or_default(),
            created_at: object.creation_timestamp().as_ref().map(millis).unwrap_or_default(),
            spec: object.spec.clone(),
            suspended: object.spec.suspend || annotated,
        }
    }

    pub fn starts_at(&self) -> Millis {
        millis(&self.spec.starts_at)
    }

    pub fn ends_at(&self) -> Millis {
        millis(&self.spec.ends_at)
    }

    pub fn preheat_at(&self) -> Millis {
        self.starts_at()
            .saturating_sub(1000 * u64::try_from(self.spec.lead_time_seconds).unwrap_or_default())
    }

    pub fn terms(&self) -> SaleTerms {
        SaleTerms {
            state: if self.suspended {
                SaleState::Suspended
            } else {
                SaleState::Open
            },
            opens_at: self.starts_at(),
            closes_at: self.ends_at(),
            limit_per_buyer: 0,
        }
    }

    pub fn offer(&self) -> Offer {
        let item = &self.spec.item;
        Offer {
            // A struct of strings and numbers always becomes JSON.
            item: serde_json::to_value(item).unwrap_or_default(),
            item_id: item.id,
            price: item.price.clone(),
            currency: item.currency.clone(),
            offered: u64::try_from(self.spec.stock).unwrap_or_default(),
        }
    }

    pub fn new_sale(&self, class: &str, namespace: &str, name: &str, part: u32) -> NewSale {
        let mut terms = self.terms();
        if self.spec.preflight == Preflight::Require {
            // Until a plan says that nothing holds it back.
            terms.state = SaleState::Suspended;
        }
        NewSale {
            class: class.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: self.uid.clone(),
            part,
            terms,
            offer: self.offer(),
        }
    }
}

pub fn millis(time: &Time) -> Millis {
    u64::try_from(time.0.as_millisecond()).unwrap_or_default()
}

/// What Redis holds of the sale.
#[derive(Debug, Clone, PartialEq)]
pub enum Index {
    /// It was not asked: nothing of the sale is there yet, or any more.
    NotAsked,
    /// It does not answer, for this reason.
    Unknown(String),
    /// No index is in force: it was never installed, or it is lost, or on another server or life of it.
    None,
    /// There is one, but a newer epoch was begun: all that it sells is void.
    Outdated(Epoch),
    InForce(IndexState),
}

impl Index {
    pub fn in_force(&self) -> Option<&IndexState> {
        match self {
            Index::InForce(index) => Some(index),
            _ => None,
        }
    }
}

/// All that [`crate::plan::plan`] goes by.
#[derive(Debug, Clone)]
pub struct Facts {
    pub now: Millis,
    /// `None`: the FlashSale is gone, and that is certain.
    pub wanted: Option<Wanted>,
    /// `None`: the ledger does not know the sale.
    pub sale: Option<Sale>,
    pub index: Index,
    pub workloads: Arc<Workloads>,
    /// `None`: they were not looked at yet.
    pub servers: Option<Arc<Servers>>,
    /// What the last comparison of the index with the ledger told; `None`: nothing yet.
    pub weighed: Option<Weighed>,
    /// An index has still to be told of returned units.
    pub effects_owed: bool,
    /// A CLOSE of this process is on its way into the ledger.
    pub close_appended: bool,
    /// The same of the TOTAL that offers what the sale is to offer.
    pub total_appended: bool,
    /// Why the last look at it failed.
    pub trouble: Option<Trouble>,
}

impl Facts {
    /// Of a sale that has not ended; `None`: nothing was looked at yet.
    pub fn preflight(&self) -> Option<Verdict> {
        let (sale, wanted) = (self.sale.as_ref()?, self.wanted.as_ref()?);
        let servers = self.servers.as_ref().filter(|_| sale.state != SaleState::Closed)?;
        Some(preflight::check(servers, &self.workloads, wanted, sale.part, self.now))
    }
}

impl Operator {
    /// Reads the facts of a sale. An error means that a server does not answer without which nothing can be decided.
    pub async fn facts(&self, namespace: &str, name: &str, wanted: Option<Wanted>) -> Result<Facts, OperatorError> {
        // The ledger first: what is sold meanwhile is then in flight, and never in the ledger without being taken.
        let sale = self.ledger.sale_by_name(&self.class, namespace, name).await?;
        let owed = match &sale {
            // At the end a raised total may be owed, too; before it that shows in the totals.
            Some(sale) if sale.settled_at_ms.is_none() && (sale.returned > 0 || sale.state == SaleState::Closed) => {
                self.ledger.has_pending_adjustments(sale.id).await?
            }
            _ => false,
        };
        let now = now();
        let index = match &sale {
            Some(sale) if sale.settled_at_ms.is_none() && may_have_index(now, wanted.as_ref(), sale) => {
                self.index(sale).await?
            }
            _ => Index::NotAsked,
        };
        let key = Key::new(namespace, name);
        let (mut weighed, mut close_appended, mut total_appended) = (None, false, false);
        if let Some(sale) = &sale {
            if sale.state != SaleState::Closed {
                // An index that has still to be told of returned units is no sample of anything.
                let sample = index.in_force().filter(|_| !owed);
                weighed = self.weigh(&key, now, sale, sample).await?;
            }
            close_appended = self.memory.close_appended(sale.id);
            total_appended = self.memory.total_appended(sale.id, sale.offered);
        }
        Ok(Facts {
            now,
            wanted,
            sale,
            index,
            weighed,
            effects_owed: owed,
            total_appended,
            workloads: self.workloads.borrow().clone(),
            servers: self.servers.borrow().clone(),
            close_appended,
            trouble: self.memory.trouble(&key),
        })
    }

    async fn index(&self, sale: &Sale) -> Result<Index, OperatorError> {
        let probe = match self.stock.probe(sale.id).await {
            Ok(probe) => probe,
            Err(error) => return Ok(Index::Unknown(error.to_string())),
        };
        let Some(index) = probe.valid().cloned() else {
            return Ok(Index::None);
        };
        let outdated = match sale.cut.closed {
            None => need_of(&index, sale) == Need::Rebuild,
            // After CLOSE the ledger does not tell any more which epoch was the last. It matters only if the numbers
            // differ, so this part of the log is read at most once in a blue moon.
            Some(closed) => {
                index.left != sale.left_at_rest() && self.barrier_between(sale, index.epoch, closed).await?
            }
        };
        Ok(if outdated {
            Index::Outdated(index.epoch)
        } else {
            Index::InForce(index)
        })
    }

    /// Weighs the index as it is now, or as it was at an earlier look whose orders were on their way then.
    async fn weigh(
        &self,
        key: &Key,
        now: Millis,
        sale: &Sale,
        index: Option<&IndexState>,
    ) -> Result<Option<Weighed>, OperatorError> {
        let Scales { sample, last } = self.memory.scales(key);
        let Some(sample) = sample.or_else(|| index.map(|index| Sample::of(now, sale, index))) else {
            return Ok(last);
        };
        let caught_up = match sample.is_overdue(now) {
            true => Some(self.caught_up(sale.part).await?),
            false => None,
        };
        // After that, so that what was read of the log is in it.
        let weighed = match self.ledger.units(sale.id, sample.epoch, sample.seq).await? {
            Some(weights) => sample.weigh(now, &weights, sale.cut, caught_up),
            None => Weighed::Moved,
        };
        let told = match (weighed, last) {
            (Weighed::Moved, last) => last,
            // Units on their way are nothing new, and nothing says yet that an imbalance is over.
            (Weighed::InFlight(_), Some(Weighed::Imbalanced(_))) => last,
            (Weighed::InFlight(_), Some(Weighed::Balanced)) if !sample.is_overdue(now) => last,
            _ => Some(weighed),
        };
        let sample = matches!(weighed, Weighed::InFlight(_)).then_some(sample);
        self.memory.set_scales(key, Scales { sample, last: told });
        Ok(told)
    }

    /// Whether the ledger has read all that a partition holds now.
    async fn caught_up(&self, part: u32) -> Result<bool, OperatorError> {
        let end = self.log.end_offset(part).await?;
        let positions = self.ledger.positions().await?;
        Ok(positions.iter().any(|(of, position)| *of == part && *position >= end))
    }

    async fn barrier_between(&self, sale: &Sale, epoch: Epoch, closed: i64) -> Result<bool, OperatorError> {
        let mut found = false;
        self.log
            .read(sale.part, epoch.0 + 1, closed, |entry| {
                found |= matches!(entry.record, Ok(Record::Barrier { sale: of, .. }) if of == sale.id);
            })
            .await?;
        Ok(found)
    }
}

/// What a valid index needs, by the protocol.
pub fn need_of(index: &IndexState, sale: &Sale) -> Need {
    let found = Found {
        epoch: index.epoch,
        rid: &index.rid,
        terms: &index.terms,
    };
    // It is valid: it was installed on the server where it was found.
    let server = Server {
        is_master: true,
        rid: index.rid.clone(),
        now: 0,
    };
    let known = Known {
        cut: sale.cut,
        live_epoch: sale.live_epoch,
        terms: sale.terms(),
    };
    recovery::needed(Some(found), &server, &known)
}

fn may_have_index(now: Millis, wanted: Option<&Wanted>, sale: &Sale) -> bool {
    wanted.is_none_or(|wanted| now >= wanted.preheat_at())
        || sale.live_epoch.is_some()
        || sale.state == SaleState::Closed
}

pub fn now() -> Millis {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default()
}
