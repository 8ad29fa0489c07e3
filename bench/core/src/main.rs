//! `contigmm-bench`: contigmm-core beside the buddy allocators of crates.io, each through the same
//! generic code and the same sequence of requests. Prints one JSON object with `results`.
//!
//! `contigmm-bench [--runs N] [--frames N,..] [--order N,..] [--pattern NAME,..]`

mod bench;
mod measure;
mod patterns;
mod peers;

use std::process::ExitCode;

use bench::Bench;
use measure::Row;
use serde::Serialize;

const USAGE: &str =
    "usage: contigmm-bench [--runs N] [--frames N,..] [--order N,..] [--pattern NAME,..]";

#[derive(Serialize)]
struct Report {
    results: Vec<Row>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [name, value] = &arguments[..]
        && name == "--resident"
        && let Ok([allocator, frames]) = numbers(value, 0, 1 << 28).as_deref()
    {
        bench::print_resident(*allocator as usize, *frames);
        return ExitCode::SUCCESS;
    }
    let bench = match options(arguments.into_iter()) {
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
        frames: Vec::new(),
        orders: Vec::new(),
        patterns: Vec::new(),
    };
    let mut arguments = arguments;
    while let Some(name) = arguments.next() {
        let value = arguments
            .next()
            .ok_or_else(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--pattern" => {
                bench.patterns = value
                    .split(',')
                    .map(patterns::known)
                    .collect::<Result<_, _>>()?;
            }
            "--runs" => bench.runs = number(&value, 1, 1000)?,
            "--frames" => bench.frames = numbers(&value, 1 << 12, 1 << 28)?,
            "--order" => {
                let orders = numbers(&value, 0, 10)?;
                bench.orders = orders
                    .into_iter()
                    .filter_map(|order| u8::try_from(order).ok())
                    .collect();
            }
            _ => return Err(format!("{name} is not an option")),
        }
    }
    Ok(bench)
}

fn numbers(value: &str, least: u32, most: u32) -> Result<Vec<u32>, String> {
    value
        .split(',')
        .map(|one| number(one, least, most))
        .collect()
}

fn number(value: &str, least: u32, most: u32) -> Result<u32, String> {
    match value.parse() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(format!("{value:?} is not a number from {least} to {most}")),
    }
}
