//! An API server as far as the agent needs one: lists in pages, watches with bookmarks, selectors,
//! and every way to fail that a test asks for.

mod routes;
mod state;

use std::{net::SocketAddr, thread, time::Duration};

use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
};

pub(crate) use self::state::{Resource, State};

/// A server that runs until it is dropped.
pub(crate) struct FakeApi {
    pub(crate) address: SocketAddr,
    state: State,
    /// One of its own, so that ending it ends all connections.
    runtime: Option<Runtime>,
}

impl FakeApi {
    /// A server without objects.
    pub(crate) async fn start() -> Self {
        Self::start_at("127.0.0.1:0").await
    }

    /// A server without objects at an address of this thread's network namespace.
    pub(crate) async fn start_at(address: &str) -> Self {
        let listener = TcpListener::bind(address).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let mut this = Self { address, state: State::default(), runtime: None };
        this.serve(listener);
        this
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// Breaks all connections and refuses new ones.
    pub(crate) fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Waits until its listener is closed; a runtime may not be waited for on a thread of another one.
            let stopped = thread::spawn(move || runtime.shutdown_timeout(Duration::from_mins(1))).join();
            stopped.expect("a runtime stops");
        }
        self.state.close_watches();
    }

    /// Listens again, on the same port.
    pub(crate) async fn restart(&mut self) {
        for _ in 0..100 {
            match TcpListener::bind(self.address).await {
                Ok(listener) => return self.serve(listener),
                // The old listener is closed by another thread.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
        panic!("{} does not become free", self.address);
    }

    fn serve(&mut self, listener: TcpListener) {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let listener = listener.into_std().expect("a listener of this runtime");
        let router = routes::router(self.state.clone());
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("a listener");
            axum::serve(listener, router).await.expect("a server runs until its runtime ends");
        });
        self.runtime = Some(runtime);
    }
}

impl Drop for FakeApi {
    fn drop(&mut self) {
        self.stop();
    }
}
