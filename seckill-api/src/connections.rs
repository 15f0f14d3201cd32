//! The open connections of a listener. When all places are taken, those that wait longest for a request are closed, as
//! nginx does it: idle and slow clients can't keep out the others.
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::connection::Activity;
use crate::metrics::{DropReason, Metrics};

/// A connection that has waited for a request for less time is not closed to make room: its request may be under way.
const MIN_RECLAIM_WAIT: Duration = Duration::from_secs(1);
const MAX_RECLAIMED_AT_ONCE: usize = 64;
const RECLAIM_INTERVAL: Duration = Duration::from_millis(100);

pub struct Connections {
    places: Arc<Semaphore>,
    /// 0: unlimited
    max_per_address: usize,
    origin: Instant,
    table: Mutex<Table>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Table {
    last_id: u64,
    open: HashMap<u64, Arc<Entry>>,
    /// Counted only if their number is limited.
    by_address: HashMap<IpAddr, usize>,
}

struct Entry {
    activity: Arc<Activity>,
    /// Set as soon as the task runs.
    task: OnceLock<AbortHandle>,
}

/// Room for one connection, until it is dropped.
pub type Place = OwnedSemaphorePermit;

impl Connections {
    pub fn new(max: usize, max_per_address: usize, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Connections {
            places: Arc::new(Semaphore::new(max)),
            max_per_address,
            origin: Instant::now(),
            table: Mutex::default(),
            metrics,
        })
    }

    /// Waits for room. Until then, new connections wait in the kernel's queue.
    pub async fn free_place(&self) -> Place {
        loop {
            if let Ok(permit) = self.places.clone().try_acquire_owned() {
                return permit;
            }
            self.reclaim();
            if let Ok(Ok(permit)) = timeout(RECLAIM_INTERVAL, self.places.clone().acquire_owned()).await {
                return permit;
            }
        }
    }

    /// Closes connections that wait for a request, the longest waiting first.
    pub fn reclaim(&self) {
        let table = self.table();
        let waits = table.open.values().filter_map(|entry| {
            let waiting = entry
                .activity
                .waiting()
                .filter(|waiting| *waiting >= MIN_RECLAIM_WAIT)?;
            Some((waiting, entry))
        });
        let mut waits: Vec<(Duration, &Arc<Entry>)> = waits.collect();
        if waits.len() > MAX_RECLAIMED_AT_ONCE {
            waits.select_nth_unstable_by(MAX_RECLAIMED_AT_ONCE, |(a, _), (b, _)| b.cmp(a));
            waits.truncate(MAX_RECLAIMED_AT_ONCE);
        }
        for (_, entry) in waits {
            // A request that begins at this instant is cut off, as by any broken connection.
            if let Some(task) = entry.task.get() {
                task.abort();
                self.metrics.count_dropped(DropReason::Reclaimed);
            }
        }
    }

    /// Registers a connection. None if this address has as many as it may have.
    pub fn open(self: &Arc<Self>, place: Place, address: IpAddr) -> Option<OpenConnection> {
        let address = client_network(address);
        let mut table = self.table();
        if self.max_per_address > 0 {
            let count = table.by_address.entry(address).or_default();
            if *count >= self.max_per_address {
                drop(table);
                self.metrics.count_dropped(DropReason::AddressLimit);
                return None;
            }
            *count += 1;
        }
        table.last_id += 1;
        let id = table.last_id;
        let entry = Arc::new(Entry {
            activity: Arc::new(Activity::new(self.origin)),
            task: OnceLock::new(),
        });
        table.open.insert(id, entry.clone());
        self.metrics.connections.inc();
        Some(OpenConnection {
            connections: self.clone(),
            id,
            address,
            entry,
            _place: place,
        })
    }

    fn close(&self, id: u64, address: IpAddr) {
        let mut table = self.table();
        table.open.remove(&id);
        if let Some(count) = table.by_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                table.by_address.remove(&address);
            }
        }
        self.metrics.connections.dec();
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // A panic elsewhere can't leave the table inconsistent: nothing panics while it is locked.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection in the table. It leaves the table when it is dropped.
pub struct OpenConnection {
    connections: Arc<Connections>,
    id: u64,
    address: IpAddr,
    entry: Arc<Entry>,
    _place: Place,
}

impl OpenConnection {
    pub fn activity(&self) -> Arc<Activity> {
        self.entry.activity.clone()
    }

    /// Runs the connection in a task of its own, until it ends or is closed to make room.
    pub fn run(self, connection: impl Future<Output = ()> + Send + 'static) {
        let entry = self.entry.clone();
        let task = tokio::spawn(async move {
            let _open = self;
            connection.await;
        });
        let _ = entry.task.set(task.abort_handle()); // set once
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.connections.close(self.id, self.address);
    }
}

/// A host has at least a /64 network of IPv6, so its addresses count as one.
fn client_network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use seckill_service::metrics::registry::Registry;

    fn connections(max_per_address: usize) -> Arc<Connections> {
        Connections::new(100, max_per_address, Metrics::register(&mut Registry::default()))
    }

    #[tokio::test]
    async fn each_address_has_its_own_limit() {
        let connections = connections(2);
        let open = async |address: &str| {
            let place = connections.free_place().await;
            connections.open(place, address.parse().unwrap())
        };
        let first = open("192.0.2.1").await;
        let second = open("::ffff:192.0.2.1").await;
        assert!(first.is_some() && second.is_some());
        assert!(open("192.0.2.1").await.is_none());
        assert!(open("192.0.2.2").await.is_some());
        drop(first);
        assert!(open("192.0.2.1").await.is_some());
        // One host has a whole /64 network.
        let _held = (open("2001:db8::1").await, open("2001:db8::2").await);
        assert!(open("2001:db8::3").await.is_none());
        assert!(open("2001:db8:0:1::1").await.is_some());
        drop(second);
        assert_eq!(connections.places.available_permits(), 98);
        assert!(
            !connections
                .table()
                .by_address
                .contains_key(&"192.0.2.1".parse().unwrap())
        );
    }

    #[tokio::test]
    async fn zero_means_no_limit_for_an_address() {
        let connections = connections(0);
        let mut open = Vec::new();
        for _ in 0..100 {
            let place = connections.free_place().await;
            open.push(connections.open(place, "192.0.2.1".parse().unwrap()).expect("admitted"));
        }
        assert!(connections.table().by_address.is_empty());
    }
}
