//! One script call for a batch of purchases.
use std::sync::LazyLock;

use redis::Script;
use seckill_protocol::index::{Answer, Decided, Fenced, MAX_HOLDINGS, Request};
use seckill_protocol::{Batch, Epoch, Order, SaleId, Seq};

use crate::client::{StockClient, StockError, call};
use crate::{holdings, keys};

static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(&source()));

fn source() -> String {
    let source = include_str!("lua/purchase.lua");
    match seckill_failpoint::breaks("rid-ignored") {
        true => source.replace("~= m[2] then", "~= m[2] and false then"),
        false => source.to_owned(),
    }
}

impl StockClient {
    /// Decides up to [`Batch::MAX_ORDERS`] requests at one instant, in their order.
    ///
    /// An error means that the outcome is unknown. The same call again is safe: what was taken is answered as held.
    pub async fn purchase(
        &self,
        sale: SaleId,
        epoch: Epoch,
        requests: &[Request],
    ) -> Result<Result<Decided, Fenced>, StockError> {
        debug_assert!((1..=Batch::MAX_ORDERS).contains(&requests.len()));
        let keys = [
            keys::figures(sale),
            keys::holdings(sale, epoch),
            keys::outbox(sale, epoch),
        ];
        let mut args = Vec::with_capacity(2 + 4 * requests.len());
        args.extend([epoch.to_string(), MAX_HOLDINGS.to_string()]);
        for request in requests {
            args.extend([
                request.buyer.to_string(),
                request.quantity.to_string(),
                request.tier.to_string(),
                request.key.to_string(),
            ]);
        }
        let reply: Vec<String> = call(&self.purchases, &SCRIPT, &keys, &args).await?;
        parse_reply(sale, epoch, requests, &reply).ok_or_else(|| StockError::Reply(format!("{reply:?}")))
    }
}

fn parse_reply(sale: SaleId, epoch: Epoch, requests: &[Request], reply: &[String]) -> Option<Result<Decided, Fenced>> {
    let (first, answers) = match reply {
        [stale] if stale == "stale" => return Some(Err(Fenced::Stale)),
        [refresh, epoch] if refresh == "refresh" => {
            return Some(Err(Fenced::Refresh {
                epoch: Epoch(epoch.parse().ok()?),
            }));
        }
        [ok, first, answers @ ..] if ok == "ok" && answers.len() == requests.len() => (first.parse().ok()?, answers),
        _ => return None,
    };
    let answers = answers.iter().map(|a| parse_answer(a)).collect::<Option<Vec<_>>>()?;
    let mut orders = Vec::new();
    for (request, answer) in requests.iter().zip(&answers) {
        if let Answer::Sold { seq } = answer {
            if *seq != first + orders.len() as Seq {
                return None;
            }
            let Request {
                buyer,
                quantity,
                tier,
                key,
            } = request.clone();
            orders.push(Order {
                buyer,
                quantity,
                tier,
                key,
            });
        }
    }
    let batch = (!orders.is_empty()).then_some(Batch {
        sale,
        epoch,
        first,
        orders,
    });
    Some(Ok((answers, batch)))
}

fn parse_answer(text: &str) -> Option<Answer> {
    let (letter, rest) = text.split_once(' ').unwrap_or((text, ""));
    Some(match letter {
        "s" => Answer::Sold {
            seq: rest.parse().ok()?,
        },
        "h" => Answer::Held(holdings::parse(rest)?),
        "u" => Answer::Unknown,
        "n" => Answer::NotStarted {
            opens: rest.parse().ok()?,
        },
        "e" => Answer::Ended,
        "p" => Answer::Suspended,
        "l" if rest.is_empty() => Answer::LimitReached { held: None },
        "l" => Answer::LimitReached {
            held: Some(holdings::parse(rest)?),
        },
        "m" => Answer::TooManyOrders,
        "o" => Answer::SoldOut {
            left: rest.parse().ok()?,
        },
        _ => return None,
    })
}
