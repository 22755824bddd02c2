//! Tests of the plan.

mod adoption;
mod allocation;
mod capacity;
mod clashes;
mod desired;
mod endpoints;
mod external;
mod garbage;
mod gone;
mod guards;
mod health;
mod hostile;
mod memory;
mod property;
mod story;
mod support;
mod toggles;
