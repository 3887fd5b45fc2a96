//! One closed-loop client of either store.

use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use tokio::time::timeout;

use super::etcd;
use super::grpc::Connection;

/// Pause before another node is asked.
const ETCD_PAUSE: Duration = Duration::from_millis(2);

/// A client. Clones share connections until one fails.
#[derive(Clone)]
pub enum Client {
    /// The client library, which finds leaders and retries by itself.
    Ours(kv_client::Client),
    /// A connection to one node, and to the next one after a failure.
    Etcd(Etcd),
}

/// A client of etcd.
#[derive(Clone)]
pub struct Etcd {
    addresses: Vec<String>,
    /// The place of the node that it asks.
    at: usize,
    connection: Option<Connection>,
    /// How long a call may wait before another node is asked.
    patience: Duration,
}

impl Client {
    /// A client of ours with connections of its own.
    pub fn ours(addresses: &[String]) -> Result<Self> {
        Ok(Self::Ours(kv_client::Client::connect(addresses.to_vec())?))
    }

    /// A client of etcd that is connected to the node at place `at`, counted in circles.
    pub async fn etcd(addresses: &[String], at: usize, patience: Duration) -> Result<Self> {
        let at = at % addresses.len();
        let connection = Connection::open(&addresses[at]).await?;
        let addresses = addresses.to_vec();
        Ok(Self::Etcd(Etcd { addresses, at, connection: Some(connection), patience }))
    }

    /// Writes a key.
    pub async fn put(&mut self, key: &Bytes, value: &Bytes) -> Result<()> {
        match self {
            Self::Ours(client) => {
                client.put(key.clone(), value.clone()).await?;
            }
            Self::Etcd(client) => {
                let connection = client.connection().await?;
                let done = timeout(client.patience, etcd::put(&connection, key, value)).await;
                client.judge(done.unwrap_or_else(|elapsed| Err(elapsed.into()))).await?;
            }
        }
        Ok(())
    }

    /// Reads a key, linearizably, and returns how many bytes its value has.
    pub async fn get(&mut self, key: &Bytes) -> Result<Option<usize>> {
        match self {
            Self::Ours(client) => {
                let found = client.get(key.clone()).await?;
                Ok(found.map(|found| {
                    let kv_core::op::Value::String(value) = found.value;
                    value.len()
                }))
            }
            Self::Etcd(client) => {
                let connection = client.connection().await?;
                let done = timeout(client.patience, etcd::get(&connection, key)).await;
                let found =
                    client.judge(done.unwrap_or_else(|elapsed| Err(elapsed.into()))).await?;
                Ok(found.map(|value| value.len()))
            }
        }
    }
}

impl Etcd {
    async fn connection(&mut self) -> Result<Connection> {
        if let Some(connection) = &self.connection {
            return Ok(connection.clone());
        }
        match Connection::open(&self.addresses[self.at]).await {
            Ok(connection) => Ok(self.connection.insert(connection).clone()),
            Err(error) => self.judge(Err(error)).await,
        }
    }

    /// Goes on to the next node after a failure.
    async fn judge<T>(&mut self, done: Result<T>) -> Result<T> {
        if done.is_err() {
            self.connection = None;
            self.at = (self.at + 1) % self.addresses.len();
            tokio::time::sleep(ETCD_PAUSE).await;
        }
        done
    }
}
