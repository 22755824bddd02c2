//! The tables as the pipeline sees them.

use proxy_common::{
    Backend, BackendId, Counter, Family, Flow, FlowKey, ServiceEntry, ServiceKey, Settings, SocketEntry, SocketKey,
};

/// What an insert does if the key is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Insertion {
    /// Fails with [`InsertError::Exists`].
    New,
    /// Replaces the value.
    Replace,
}

/// Why an insert did nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InsertError {
    /// The key is there already.
    Exists,
    /// There is no room.
    Full,
}

/// One family's tables, the shared tables, a clock and a source of random numbers.
pub trait Tables<F: Family> {
    /// The node's settings.
    fn settings(&self) -> &Settings;

    /// The frontend's entry.
    fn service(&self, key: &ServiceKey<F::Address>) -> Option<ServiceEntry>;

    /// The backend that a slot names.
    fn slot(&self, index: u32) -> Option<BackendId>;

    /// A backend; `None` if the number is out of range or free.
    fn backend(&self, id: BackendId) -> Option<Backend<F::Address>>;

    /// Calls `action` on the flow's entry where it lies.
    fn with_flow<R>(&mut self, key: &FlowKey<F::Address>, action: impl FnOnce(&mut Flow<F::Address>) -> R)
    -> Option<R>;

    /// Adds a flow's entry.
    ///
    /// # Errors
    /// The key exists and must not, or there is no room.
    fn insert_flow(
        &mut self,
        key: &FlowKey<F::Address>,
        flow: &Flow<F::Address>,
        insertion: Insertion,
    ) -> Result<(), InsertError>;

    /// Removes a flow's entry; nothing if it is not there.
    fn remove_flow(&mut self, key: &FlowKey<F::Address>);

    /// Calls `action` on the socket's entry where it lies.
    fn with_socket<R>(
        &mut self,
        key: &SocketKey<F::Address>,
        action: impl FnOnce(&mut SocketEntry<F::Address>) -> R,
    ) -> Option<R>;

    /// Adds a socket's entry.
    ///
    /// # Errors
    /// The key exists and must not, or there is no room.
    fn insert_socket(
        &mut self,
        key: &SocketKey<F::Address>,
        entry: &SocketEntry<F::Address>,
        insertion: Insertion,
    ) -> Result<(), InsertError>;

    /// Removes a socket's entry; nothing if it is not there.
    fn remove_socket(&mut self, key: &SocketKey<F::Address>);

    /// Whether pods live behind the device.
    fn is_pod_device(&self, device: u32) -> bool;

    /// Adds one to a counter.
    fn count(&mut self, counter: Counter);

    /// A uniformly distributed random number.
    fn random(&mut self) -> u32;

    /// Seconds since boot.
    fn now(&self) -> u32;
}
