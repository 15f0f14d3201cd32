//! Reads the state of the server and of the index of a sale at one instant, and the holdings of a buyer.
use std::str::FromStr;
use std::sync::LazyLock;
use std::time::Duration;

use futures::future::join_all;
use redis::{Cmd, RedisError, Script, ServerErrorKind, Value};
use seckill_protocol::index::{Holding, IndexState, OrderBounds, SaleState, Server, Terms};
use seckill_protocol::{Buyer, Epoch, SaleId};

use crate::client::{Route, StockClient, StockError};
use crate::connection::Connection;
use crate::roles::Role;
use crate::{holdings, keys, tiers};

static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/probe.lua")));

/// One round trip must not keep the connection busy for long.
const PROBES_PER_ROUND_TRIP: usize = 250;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    pub server: Server,
    pub index: Option<IndexState>,
}

impl Probe {
    /// The index, if it is in force: the server is a primary and still has the replication id of the installation.
    pub fn valid(&self) -> Option<&IndexState> {
        self.index.as_ref().filter(|index| {
            self.server.is_master && (index.rid == self.server.rid || seckill_failpoint::breaks("rid-ignored"))
        })
    }
}

impl StockClient {
    pub async fn probe(&self, sale: SaleId) -> Result<Probe, StockError> {
        self.probe_on(self.route(sale, Role::Administration)?, sale).await
    }

    /// With another time limit. A caller that drops [`Self::probe`] after a time of its own would hide from the connection
    /// that it got no answer.
    pub async fn probe_within(&self, sale: SaleId, limit: Duration) -> Result<Probe, StockError> {
        let route = self.route(sale, Role::Administration)?.within(limit);
        self.probe_on(route, sale).await
    }

    /// On the connection that writes the holdings of a new index. Each connection follows a switchover for itself, so one
    /// that leads to the right server says nothing about the others.
    pub async fn probe_for_rebuild(&self, sale: SaleId) -> Result<Probe, StockError> {
        self.probe_on(self.route(sale, Role::Holdings)?, sale).await
    }

    /// Probes many sales in few round trips, in this order. They are not read at one instant. `None`: its server did not
    /// answer; an error if none did.
    pub async fn probe_all(&self, sales: &[SaleId]) -> Result<Vec<Option<Probe>>, StockError> {
        let mut probes = vec![None; sales.len()];
        let mut failure = None;
        let servers = self
            .by_server(sales)
            .into_iter()
            .map(|(connection, indexes)| async move {
                let sales: Vec<SaleId> = indexes.iter().map(|index| sales[*index]).collect();
                let probed = probe_on_server(&mut connection?, &sales).await?;
                Ok::<_, StockError>(indexes.into_iter().zip(probed).collect::<Vec<_>>())
            });
        for probed in join_all(servers).await {
            match probed {
                Ok(probed) => probed.into_iter().for_each(|(index, probe)| probes[index] = probe),
                Err(error) => failure = Some(error),
            }
        }
        match failure {
            Some(error) if probes.iter().all(Option::is_none) => Err(error),
            _ => Ok(probes),
        }
    }

    /// The holdings of a buyer in the index of this epoch. `None`: that index is not in force at the address of Redis.
    pub async fn holdings_of(
        &self,
        sale: SaleId,
        epoch: Epoch,
        buyer: &Buyer,
    ) -> Result<Option<Vec<Holding>>, StockError> {
        let mut connection = self.connection_for(sale, Role::Administration)?;
        SCRIPT.load_async(&mut connection).await?;
        let mut read = redis::cmd("HGET");
        read.arg(keys::holdings(sale, epoch)).arg(buyer.as_str());
        // On one connection, so on one server. An index that is in force after the read was so before, because no epoch is
        // used twice.
        let mut calls = redis::pipe();
        calls.add_command(read).add_command(probe_of(sale));
        let (text, reply): (Option<String>, Vec<String>) = calls.query_async(&mut connection).await?;
        let probe = parse_reply(&reply).ok_or_else(|| StockError::Reply(format!("{reply:?}")))?;
        if probe.valid().is_none_or(|index| index.epoch != epoch) {
            return Ok(None);
        }
        let text = text.unwrap_or_default();
        let held: Option<Vec<Holding>> = text.split_whitespace().map(holdings::parse).collect();
        held.map(Some).ok_or(StockError::Reply(text))
    }

    async fn probe_on(&self, route: Route, sale: SaleId) -> Result<Probe, StockError> {
        let (keys, args) = ([keys::figures(sale)], arguments(sale));
        let reply: Vec<String> = self.call_on(route, &SCRIPT, &keys, &args[..]).await?;
        parse_reply(&reply).ok_or_else(|| StockError::Reply(format!("{reply:?}")))
    }
}

/// `None`: another node of the Cluster has that sale. The single probe of the sale finds it.
async fn probe_on_server(connection: &mut Connection, sales: &[SaleId]) -> Result<Vec<Option<Probe>>, StockError> {
    let mut probes = Vec::with_capacity(sales.len());
    if !sales.is_empty() {
        // Pipelined calls can't load the script when it is missing.
        SCRIPT.load_async(connection).await?;
    }
    for sales in sales.chunks(PROBES_PER_ROUND_TRIP) {
        let mut calls = redis::pipe();
        for sale in sales {
            calls.add_command(probe_of(*sale));
        }
        for reply in connection.send_all(&calls, 0, sales.len()).await?.value {
            if let Value::ServerError(error) = &reply
                && matches!(error.kind(), Some(ServerErrorKind::Moved | ServerErrorKind::Ask))
            {
                probes.push(None);
                continue;
            }
            let reply = reply.extract_error()?;
            let reply: Vec<String> = redis::from_redis_value(reply).map_err(RedisError::from)?;
            let probe = parse_reply(&reply).ok_or_else(|| StockError::Reply(format!("{reply:?}")))?;
            probes.push(Some(probe));
        }
    }
    Ok(probes)
}

fn probe_of(sale: SaleId) -> Cmd {
    let mut command = redis::cmd("EVALSHA");
    command
        .arg(SCRIPT.get_hash())
        .arg(1)
        .arg(keys::figures(sale))
        .arg(&arguments(sale));
    command
}

fn arguments(sale: SaleId) -> [String; 2] {
    [keys::holdings_prefix(sale), keys::outbox_prefix(sale)]
}

fn parse_reply(reply: &[String]) -> Option<Probe> {
    let (server, index) = reply.split_at_checked(3)?;
    let server = Server {
        is_master: server[0] == "master",
        rid: server[1].clone(),
        now: server[2].parse().ok()?,
    };
    let index = match index {
        [] => None,
        [
            epoch,
            rid,
            version,
            state,
            total,
            left,
            seq,
            opens,
            closes,
            limit,
            max_per_order,
            orders_ever_max,
            buyer_live_max,
            buyer_ever_max,
            ever,
            adjusted,
            tiers,
            taken,
            holders,
            outbox,
        ] => Some(IndexState {
            epoch: Epoch(epoch.parse().ok()?),
            rid: rid.clone(),
            terms: Terms {
                version: version.parse().ok()?,
                state: SaleState::from_text(state)?,
                opens: opens.parse().ok()?,
                closes: closes.parse().ok()?,
                limit: limit.parse().ok()?,
                bounds: OrderBounds {
                    max_per_order: or_none(max_per_order)?.unwrap_or_default(),
                    orders_ever_max: or_none(orders_ever_max)?.unwrap_or_default(),
                    buyer_live_max: or_none(buyer_live_max)?.unwrap_or_default(),
                    buyer_ever_max: or_none(buyer_ever_max)?.unwrap_or_default(),
                },
                tiers: tiers::parse(tiers)?,
            },
            total: total.parse().ok()?,
            left: left.parse().ok()?,
            seq: seq.parse().ok()?,
            ever: or_none(ever)?,
            adjusted: or_none(adjusted)?,
            taken: tiers::parse_taken(taken)?,
            holders: holders.parse().ok()?,
            outbox: outbox.parse().ok()?,
        }),
        _ => return None,
    };
    Some(Probe { server, index })
}

/// A field that an index of an earlier version does not have.
fn or_none<T: FromStr>(field: &str) -> Option<Option<T>> {
    match field {
        "" => Some(None),
        field => field.parse().ok().map(Some),
    }
}
