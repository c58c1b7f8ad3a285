use super::*;
use crate::store::contract::{self, Harness};

struct Memory(MemStores);

impl Harness for Memory {
    type Stores = MemStores;

    async fn stores(&mut self) -> MemStores {
        self.0.clone()
    }

    async fn crash(&mut self, _: MemStores, _: Vec<MemStore>) {
        self.0.crash();
    }
}

#[tokio::test]
async fn keeps_the_contract() {
    contract::run(&mut Memory(MemStores::new())).await;
}
