//! `contigmm-bench`: contigmm-core beside the buddy allocators of crates.io, each through the same
//! generic code and the same sequence of requests. Prints one JSON object with `results`.
//!
//! `contigmm-bench [--runs N] [--frames N] [--pattern NAME]`

mod patterns;
mod peers;

use std::process::ExitCode;

use patterns::{Bench, Row};
use serde::Serialize;

const USAGE: &str = "usage: contigmm-bench [--runs N] [--frames N] [--pattern NAME]";

#[derive(Serialize)]
struct Report {
    results: Vec<Row>,
}

fn main() -> ExitCode {
    let bench = match options(std::env::args().skip(1)) {
        Ok(bench) => bench,
        Err(sentence) => {
            eprintln!("{sentence}; {USAGE}");
            return ExitCode::from(2);
        }
    };
    let results = bench.all();
    println!(
        "{}",
        serde_json::to_string(&Report { results }).expect("rows have a JSON form")
    );
    ExitCode::SUCCESS
}

fn options(arguments: impl Iterator<Item = String>) -> Result<Bench, String> {
    let mut bench = Bench {
        runs: 9,
        frames: 1 << 21,
        only: None,
    };
    let mut arguments = arguments;
    while let Some(name) = arguments.next() {
        let value = arguments
            .next()
            .ok_or_else(|| format!("{name} needs a value"))?;
        let number = value
            .parse::<u32>()
            .map_err(|_| format!("{value:?} is not a number"));
        match name.as_str() {
            "--pattern" => bench.only = Some(value),
            "--runs" => bench.runs = number?.max(1),
            "--frames" => bench.frames = number?.max(4096),
            _ => return Err(format!("{name} is not an option")),
        }
    }
    Ok(bench)
}
