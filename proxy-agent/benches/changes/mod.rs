//! What the control plane does with objects of the size that a node has to bear.

#[path = "../../tests/sized/mod.rs"]
#[allow(dead_code, reason = "shared with tests; each uses what it needs")]
pub mod sized;

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use proxy_agent::{
    model::{Affected, Change, EndpointSlice, Index, Service, Update},
    plan::{Capacities, Changes, Refused, State},
};
use sized::{NODE, SERVICES, service, slice};

/// The text of a watch event's object.
pub fn slice_text(number: u32, round: u32) -> Vec<u8> {
    serde_json::to_vec(&slice(number, round)).expect("it is serializable")
}

/// The text of a Service.
pub fn service_text(number: u32) -> Vec<u8> {
    serde_json::to_vec(&service(number)).expect("it is serializable")
}

/// Text to model, as it is done with each event of a slice.
pub fn parse_slice(text: &[u8]) -> EndpointSlice {
    let slice: discovery::EndpointSlice = serde_json::from_slice(text).expect("it is a slice");
    EndpointSlice::from_api(&slice).object.expect("it is a sound one")
}

/// Text to model, as it is done with each event of a Service.
pub fn parse_service(text: &[u8]) -> Service {
    let service: core::Service = serde_json::from_slice(text).expect("it is a Service");
    Service::from_api(&service).object.expect("it is a sound one")
}

/// An index of so many Services.
pub fn index(services: u32) -> Index {
    let mut index = Index::new(NODE.into());
    for number in 0..services {
        let service = Service::from_api(&service(number)).object.expect("it is a sound one");
        let _ = index.update(Update::Service(Change::Apply(service)));
        let slice = EndpointSlice::from_api(&slice(number, 0)).object.expect("it is a sound one");
        let _ = index.update(Update::Slice(Change::Apply(slice)));
    }
    index
}

/// Everything, planned from nothing.
pub fn plan_all(index: &Index) -> (State, Changes) {
    let mut state = State::new(Capacities::default());
    let changes = state.complete(index);
    state.applied(&Refused::default());
    (state, changes)
}

/// Index and plan that are in step, with all Services.
pub struct Settled {
    index: Index,
    state: State,
    services: u32,
    round: u32,
}

impl Settled {
    /// With so many Services.
    pub fn new(services: u32) -> Self {
        let index = index(services);
        let (state, _) = plan_all(&index);
        Self { index, state, services, round: 0 }
    }

    /// A slice one of whose endpoints is another one.
    pub fn next_slice(&mut self) -> EndpointSlice {
        self.round += 1;
        EndpointSlice::from_api(&slice(self.round * 7 % self.services, self.round)).object.expect("it is a sound one")
    }

    /// A changed slice, from the model to what has to be written.
    pub fn change(&mut self, slice: EndpointSlice) -> Changes {
        let affected = self.index.update(Update::Slice(Change::Apply(slice)));
        let changes = self.state.reconcile(&self.index, &affected);
        self.state.applied(&Refused::default());
        changes
    }

    /// Compares everything that should be there with what is there.
    pub fn diff(&mut self) -> Changes {
        self.state.reconcile(&self.index, &Affected::All)
    }
}

/// As many Services as a node has to bear.
pub const ALL: u32 = SERVICES;
