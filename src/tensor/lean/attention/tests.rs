use super::*;
use crate::tensor::lean::pairs::halve;

/// Rounded where heads fill whole panels.
fn attend(
    qkv: &[Row],
    rows: usize,
    spans: &[Span],
    heads: Heads,
    out: &mut [Row],
    rounded: Option<Rounded>,
    threads: usize,
) {
    let Some(rounded) = rounded.filter(|_| heads.size.is_multiple_of(WIDTH)) else {
        return attention(qkv, rows, spans, heads, out, threads);
    };
    let mut halves = vec![HalfRow::ZERO; qkv.len()];
    halve(qkv, &mut halves);
    rounded_attention(&halves, rows, spans, heads, out, rounded, threads);
    let mut rounded_out = vec![HalfRow::ZERO; out.len()];
    rounded_attention(&halves, rows, spans, heads, &mut rounded_out, rounded, threads);
    halve(out, &mut halves[..out.len()]);
    assert_eq!(rounded_out, halves[..out.len()], "rounded in another way");
}

/// As it is defined, in f64.
fn defined(qkv: &[Vec<f32>], spans: &[Span], heads: Heads) -> Vec<Vec<f64>> {
    let Heads { heads: count, size, causal } = heads;
    let mut out = vec![vec![0.0; count * size]; qkv.len()];
    for span in spans {
        for head in 0..count {
            let at = |row: usize, part: usize, d: usize| {
                f64::from(qkv[span.start + row][part * count * size + head * size + d])
            };
            for i in 0..span.tokens {
                let seen = if causal { i + 1 } else { span.tokens };
                let dot = |j: usize| -> f64 { (0..size).map(|d| at(i, 0, d) * at(j, 1, d)).sum() };
                let weights: Vec<f64> =
                    (0..seen).map(|j| (dot(j) / (size as f64).sqrt()).exp()).collect();
                let total: f64 = weights.iter().sum();
                for d in 0..size {
                    out[span.start + i][head * size + d] =
                        (0..seen).map(|j| weights[j] / total * at(j, 2, d)).sum();
                }
            }
        }
    }
    out
}

/// Sequences one after the other in the same places, as a server has them: of what a longer one leaves nothing may be seen, though it
/// be no number.
#[test]
fn what_another_sequence_left_is_not_seen() {
    let (heads, columns) = (Heads { heads: 1, size: 32, causal: false }, 96);
    let run = |tokens: usize, rounded, of: &dyn Fn(usize) -> f32| {
        let mut qkv = vec![Row::ZERO; columns / WIDTH * tokens];
        for (at, row) in qkv.iter_mut().enumerate() {
            row.0 = std::array::from_fn(|lane| of(at * WIDTH + lane));
        }
        let mut out = vec![Row([f32::NAN; WIDTH]); tokens];
        let spans = [Span { start: 0, tokens }];
        attend(&qkv, tokens, &spans, heads, &mut out, rounded, 1);
        out
    };
    for rounded in [None, Rounded::detect()] {
        let value = |at: usize| (at as f32 * 0.37).sin();
        let before = run(5, rounded, &value);
        assert!(before.iter().flat_map(|row| row.0).all(f32::is_finite));
        assert!(run(70, rounded, &|_| f32::NAN)[0].0[0].is_nan());
        assert_eq!(run(5, rounded, &value), before);
    }
}

#[test]
fn attention_equals_the_definition_for_any_head_and_sequences_of_any_length() {
    for (count, size) in [(2, 64), (3, 32), (2, 80), (4, 16), (1, 5)] {
        for causal in [false, true] {
            let spans =
                [(0, 7), (7, 1), (8, 33), (41, 50)].map(|(start, tokens)| Span { start, tokens });
            let (rows, columns) = (91, 3 * count * size);
            let value = |row: usize, c: usize| ((row * columns + c) as f32 * 0.731).sin() * 1.5;
            let plain: Vec<Vec<f32>> =
                (0..rows).map(|row| (0..columns).map(|c| value(row, c)).collect()).collect();
            let mut qkv = vec![Row::ZERO; panels(columns) * rows];
            for (row, values) in plain.iter().enumerate() {
                for (c, value) in values.iter().enumerate() {
                    qkv[c / WIDTH * rows + row].0[c % WIDTH] = *value;
                }
            }
            let heads = Heads { heads: count, size, causal };
            let want = defined(&plain, &spans, heads);
            // Rounded, each of a hundred values is off by up to 0.2 %.
            let ways = [(None, 3e-6), (Rounded::detect(), 1e-2)];
            for (rounded, threads, most) in
                ways.into_iter().flat_map(|(way, most)| [(way, 1, most), (way, 2, most)])
            {
                let mut out = vec![Row([f32::NAN; WIDTH]); panels(count * size) * rows];
                attend(&qkv, rows, &spans, heads, &mut out, rounded, threads);
                for (row, want) in want.iter().enumerate() {
                    let all = panels(count * size) * WIDTH;
                    let got = crate::tensor::lean::row_of(&out, rows, row, all);
                    assert!(got[count * size..].iter().all(|filling| *filling == 0.0));
                    for (got, want) in got.iter().zip(want) {
                        assert!(
                            (f64::from(*got) - want).abs() < most,
                            "{heads:?} {rounded:?}: {got} {want}"
                        );
                    }
                }
            }
        }
    }
}
