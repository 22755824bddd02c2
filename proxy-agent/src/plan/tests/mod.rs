//! Tests of the plan.

mod adoption;
mod allocation;
mod capacity;
mod clashes;
mod desired;
mod endpoints;
mod garbage;
mod gone;
mod memory;
mod property;
mod story;
mod support;
