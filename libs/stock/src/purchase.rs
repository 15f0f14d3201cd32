//! One script call for a batch of purchases.
use std::sync::LazyLock;

use redis::{RedisWrite, Script, ToRedisArgs};
use seckill_protocol::index::{BatchDecision, Decision, Fenced, Request};
use seckill_protocol::{Batch, Epoch, Order, SaleId, Seq};

use crate::client::{StockClient, StockError};
use crate::roles::Role;
use crate::{holdings, keys};

static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(&source()));

/// Rules that a chaos run breaks, and what it replaces in the script.
const BROKEN_RULES: [(&str, &str, &str); 3] = [
    ("rid-ignored", "~= m[2] then", "~= m[2] and false then"),
    (
        "limit-of-one-order",
        "units + quantity > of.limit",
        "quantity > of.limit",
    ),
    (
        "reserve-ignored",
        "return math.max(left - kept, 0), next",
        "return left, next",
    ),
];

fn source() -> String {
    let mut source = include_str!("lua/purchase.lua").to_owned();
    for (rule, from, to) in BROKEN_RULES {
        if seckill_failpoint::breaks(rule) {
            source = source.replace(from, to);
        }
    }
    source
}

impl StockClient {
    /// Decides up to [`Batch::MAX_ORDERS`] requests at one instant, in their order.
    ///
    /// An error means that the outcome is unknown. Repeating the call is safe: purchases of the first call are answered
    /// as already reserved.
    pub async fn purchase(
        &self,
        sale: SaleId,
        epoch: Epoch,
        requests: &[Request],
    ) -> Result<Result<BatchDecision, Fenced>, StockError> {
        debug_assert!((1..=Batch::MAX_ORDERS).contains(&requests.len()));
        let keys = [
            keys::figures(sale),
            keys::holdings(sale, epoch),
            keys::outbox(sale, epoch),
        ];
        let purchases = ScriptCall { sale, epoch, requests };
        let reply: Vec<String> = self.call(sale, Role::Purchases, &SCRIPT, &keys, &purchases).await?;
        purchases
            .decided(&reply)
            .ok_or_else(|| StockError::Reply(format!("{reply:?}")))
    }
}

/// The arguments of the script, and how to read its reply.
#[derive(Debug, Clone, Copy)]
pub struct ScriptCall<'a> {
    pub sale: SaleId,
    pub epoch: Epoch,
    pub requests: &'a [Request],
}

impl ToRedisArgs for ScriptCall<'_> {
    fn write_redis_args<W: RedisWrite + ?Sized>(&self, out: &mut W) {
        self.epoch.0.write_redis_args(out);
        for request in self.requests {
            out.write_arg(request.buyer.as_str().as_bytes());
            request.quantity.write_redis_args(out);
            request.tier.write_redis_args(out);
            out.write_arg_fmt(request.key);
        }
    }

    fn num_of_args(&self) -> usize {
        1 + 4 * self.requests.len()
    }
}

impl ScriptCall<'_> {
    /// `None` if the reply is invalid.
    pub fn decided(&self, reply: &[String]) -> Option<Result<BatchDecision, Fenced>> {
        let (first, answers) = match reply {
            [replica] if replica == "replica" => return Some(Err(Fenced::Replica)),
            [stale] if stale == "stale" => return Some(Err(Fenced::Stale)),
            [refresh, epoch] if refresh == "refresh" => {
                return Some(Err(Fenced::Refresh {
                    epoch: Epoch(epoch.parse().ok()?),
                }));
            }
            [ok, first, answers] if ok == "ok" => (first.parse().ok()?, answers),
            _ => return None,
        };
        let mut decisions = Vec::with_capacity(self.requests.len());
        let mut orders = Vec::new();
        let mut answers = answers.split(',');
        for request in self.requests {
            let answer = match answers.next()? {
                "s" => {
                    orders.push(order(request));
                    Decision::Reserved {
                        seq: first + orders.len() as Seq - 1,
                    }
                }
                other => parse_answer(other)?,
            };
            decisions.push(answer);
        }
        if answers.next().is_some() {
            return None;
        }
        let batch = (!orders.is_empty()).then_some(Batch {
            sale: self.sale,
            epoch: self.epoch,
            first,
            orders,
        });
        Some(Ok((decisions, batch)))
    }
}

fn order(request: &Request) -> Order {
    Order {
        buyer: request.buyer.clone(),
        quantity: request.quantity,
        tier: request.tier,
        key: request.key,
    }
}

/// The decision on a request that bought nothing.
fn parse_answer(text: &str) -> Option<Decision> {
    let (letter, rest) = text.split_once(' ').unwrap_or((text, ""));
    Some(match letter {
        "h" => Decision::AlreadyReserved(holdings::parse(rest)?),
        "u" => Decision::Unknown,
        "q" => Decision::QuantityTooLarge {
            most: rest.parse().ok()?,
        },
        "n" => Decision::NotStarted {
            opens: rest.parse().ok()?,
        },
        "e" => Decision::Ended,
        "p" => Decision::Suspended,
        "l" if rest.is_empty() => Decision::LimitReached { held: None },
        "l" => Decision::LimitReached {
            held: Some(holdings::parse(rest)?),
        },
        "m" => Decision::TooManyOrders,
        "x" => Decision::OrdersExhausted,
        "o" => {
            let (left, release) = rest.split_once(' ').map_or((rest, None), |(left, at)| (left, Some(at)));
            Decision::SoldOut {
                left: left.parse().ok()?,
                release: release.map(str::parse).transpose().ok()?,
            }
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_has_each_rule_that_can_be_broken() {
        let source = include_str!("lua/purchase.lua");
        for (rule, from, _) in BROKEN_RULES {
            assert!(source.contains(from), "{rule}");
        }
    }
}
