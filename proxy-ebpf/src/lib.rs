//! The datapath's pipeline.
#![no_std]
