//! The fuzzer's corpus, and a short run of what a fuzzer does to it. `cargo +nightly fuzz run packets` in the repository's root goes
//! further; `WRITE_CORPUS=1 cargo test -p proxy-ebpf --test fuzz` adds the fixtures' packets to the corpus.

use std::{env, fs, panic, path::PathBuf};

use proptest::{
    prelude::*,
    sample::{Index, select},
    test_runner::FileFailurePersistence,
};
use proxy_ebpf::fixtures::fuzz;

fn folder() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "fuzz", "corpus", "packets"].iter().collect()
}

fn corpus() -> Vec<Vec<u8>> {
    if env::var_os("WRITE_CORPUS").is_some() {
        for (number, seed) in fuzz::seeds().into_iter().enumerate() {
            fs::write(folder().join(format!("fixture-{number:03}")), seed).expect("the folder is there");
        }
    }
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder()).expect("the corpus is there").map(|file| file.expect("a file").path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).expect("a file")).collect()
}

#[test]
fn the_corpus_holds() {
    let corpus = corpus();
    assert!(corpus.len() >= 100, "{} inputs", corpus.len());
    for input in corpus {
        if let Err(panic) = panic::catch_unwind(|| fuzz::run(&input)) {
            eprintln!("the input is {input:02x?}");
            panic::resume_unwind(panic);
        }
    }
}

/// One thing that a fuzzer does to an input.
#[derive(Clone, Debug)]
enum Mutation {
    Set(Index, u8),
    Flip(Index, u8),
    Remove(Index),
    Insert(Index, u8),
    /// What follows is another input.
    Follow(Vec<u8>),
}

fn mutation(corpus: Vec<Vec<u8>>) -> impl Strategy<Value = Mutation> {
    prop_oneof![
        4 => (any::<Index>(), prop_oneof![Just(0), Just(0xff), any::<u8>()]).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        4 => (any::<Index>(), 0_u8..8).prop_map(|(at, bit)| Mutation::Flip(at, bit)),
        1 => any::<Index>().prop_map(Mutation::Remove),
        1 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Mutation::Insert(at, byte)),
        3 => select(corpus).prop_map(Mutation::Follow),
    ]
}

fn mutate(input: &mut Vec<u8>, mutation: Mutation) {
    match mutation {
        Mutation::Follow(next) => input.extend(next),
        _ if input.is_empty() => {}
        Mutation::Set(at, byte) => *at.get_mut(input) = byte,
        Mutation::Flip(at, bit) => *at.get_mut(input) ^= 1 << bit,
        Mutation::Remove(at) => drop(input.remove(at.index(input.len()))),
        Mutation::Insert(at, byte) => input.insert(at.index(input.len()), byte),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))), ..ProptestConfig::default() })]

    #[test]
    fn what_a_fuzzer_makes_of_the_corpus_holds(
        mut input in select(corpus()),
        mutations in proptest::collection::vec(mutation(corpus()), 1..12),
    ) {
        for mutation in mutations {
            mutate(&mut input, mutation);
        }
        fuzz::run(&input);
    }
}
