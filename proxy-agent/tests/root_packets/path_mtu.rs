//! Path MTU discovery (RFC 1191, RFC 8201) through a Service: routers beside a narrow link tell both ends by ICMP errors
//! that only reach them if they are translated.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    thread,
};

use super::{
    stage::{Routers, Stage, everything},
    support::patience,
};

const MEGABYTE: usize = 1 << 20;

#[test]
fn a_narrow_link_before_the_node_is_found_out() {
    everything(Routers::BeforeNode, a_megabyte_there_and_back);
}

#[test]
fn a_narrow_link_behind_the_node_is_found_out() {
    everything(Routers::BehindNode, a_megabyte_there_and_back);
}

fn a_megabyte_there_and_back(stage: &Stage<'_>) {
    let (target, node_port) = (stage.target(), stage.node_port());
    let server = stage.backend.enter(|| TcpListener::bind(target).expect("binds"));
    let echo = thread::spawn(move || {
        let (mut stream, _) = server.accept().expect("a connection");
        stream.set_read_timeout(Some(patience())).expect("sets");
        let mut received = vec![0; MEGABYTE];
        stream.read_exact(&mut received).expect("the request arrives");
        stream.write_all(&received).expect("the connection lives");
    });
    let mut stream = stage.client.enter(|| TcpStream::connect_timeout(&node_port, patience())).expect("is served");
    stream.set_read_timeout(Some(patience())).expect("sets");
    stream.set_write_timeout(Some(patience())).expect("sets");
    let mut request = (0..=250).collect::<Vec<u8>>().repeat(MEGABYTE.div_ceil(251));
    request.truncate(MEGABYTE);
    stream.write_all(&request).expect("the connection lives");
    let mut answer = vec![0; MEGABYTE];
    stream.read_exact(&mut answer).expect("the answer arrives");
    assert!(answer == request, "the answer is the request");
    echo.join().expect("the server lives");
}
