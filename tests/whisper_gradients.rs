//! The decoder's operations, forward and backward, against plain f64 versions and central differences of those.

mod common;

use aurist::engine::{CrossAttention, DecoderBackend};
use common::finite_differences::{assert_close, backends, differences, dot, random, single};

fn attend(shape: CrossAttention, q: &[f64], kv: &[f64]) -> Vec<f64> {
    let (width, dim) = (shape.width(), shape.head_dim);
    let mut out = vec![0.0; q.len()];
    for query in 0..shape.queries {
        let seen = if shape.causal {
            shape.keys - shape.queries + query + 1
        } else {
            shape.keys
        };
        for head in 0..shape.heads {
            let at = query * width + head * dim;
            let part = |key: usize, which: usize| {
                let start = key * 2 * width + which * width + head * dim;
                &kv[start..start + dim]
            };
            let scores = (0..seen).map(|key| dot(&q[at..at + dim], part(key, 0)) / (dim as f64).sqrt());
            let weights: Vec<f64> = scores.map(f64::exp).collect();
            let total: f64 = weights.iter().sum();
            for (key, weight) in weights.iter().enumerate() {
                for (out, v) in out[at..at + dim].iter_mut().zip(part(key, 1)) {
                    *out += weight / total * v;
                }
            }
        }
    }
    out
}

#[test]
fn cross_attention_and_its_gradients() {
    // Few queries and many take different paths; 200 are more than a block.
    for (queries, keys, heads, head_dim, causal) in [
        (1, 1, 1, 1, false),
        (1, 7, 2, 3, true),
        (3, 9, 2, 4, false),
        (5, 8, 2, 5, true),
        (11, 11, 3, 4, true),
        (12, 17, 1, 6, true),
        (13, 40, 2, 8, false),
    ] {
        let shape = CrossAttention {
            queries,
            keys,
            heads,
            head_dim,
            causal,
        };
        let width = shape.width();
        let (q, kv) = (random(queries * width, 1), random(keys * 2 * width, 2));
        let cotangent = random(queries * width, 3);
        let exact = attend(shape, &q, &kv);
        let dq_exact = differences(&q, &cotangent, |q| attend(shape, q, &kv));
        let dkv_exact = differences(&kv, &cotangent, |kv| attend(shape, &q, kv));
        for backend in backends() {
            let (q, kv, dout) = (single(&q), single(&kv), single(&cotangent));
            let mut scratch = vec![f32::NAN; backend.cross_attention_scratch(shape)];
            let (mut out, mut log_sum_exp) = (vec![f32::NAN; q.len()], vec![f32::NAN; heads * queries]);
            backend.cross_attention(shape, &q, &kv, &mut out, &mut log_sum_exp, &mut scratch);
            assert_close("out", &out, &exact, 1e-5);
            let (mut dq, mut dkv) = (vec![f32::NAN; q.len()], vec![f32::NAN; kv.len()]);
            let d = (&mut dq, &mut dkv);
            backend.cross_attention_backward(shape, &q, &kv, &out, &log_sum_exp, &dout, d.0, d.1, &mut scratch);
            assert_close("dq", &dq, &dq_exact, 1e-4);
            assert_close("dkv", &dkv, &dkv_exact, 1e-4);
        }
    }
}

#[test]
fn many_queries_take_several_blocks() {
    let shape = CrossAttention {
        queries: 200,
        keys: 230,
        heads: 2,
        head_dim: 4,
        causal: true,
    };
    let (q, kv) = (random(200 * 8, 1), random(230 * 16, 2));
    for backend in backends() {
        let mut scratch = vec![f32::NAN; backend.cross_attention_scratch(shape)];
        let (mut out, mut log_sum_exp) = (vec![f32::NAN; q.len()], vec![f32::NAN; 400]);
        backend.cross_attention(
            shape,
            &single(&q),
            &single(&kv),
            &mut out,
            &mut log_sum_exp,
            &mut scratch,
        );
        assert_close("out", &out, &attend(shape, &q, &kv), 1e-5);
        // Each query's gradient by itself, in calls of one, adds up to that of all at once.
        let dout = single(&random(q.len(), 3));
        let (mut dq, mut dkv) = (vec![f32::NAN; q.len()], vec![f32::NAN; kv.len()]);
        let (q, kv) = (single(&q), single(&kv));
        let saved = (&out, &log_sum_exp);
        backend.cross_attention_backward(shape, &q, &kv, saved.0, saved.1, &dout, &mut dq, &mut dkv, &mut scratch);
        let (mut dq_apart, mut dkv_apart) = (Vec::new(), vec![0.0f64; kv.len()]);
        for query in 0..200 {
            let alone = CrossAttention {
                queries: 1,
                keys: 31 + query,
                causal: false,
                ..shape
            };
            let row = query * 8..(query + 1) * 8;
            let seen = &kv[..alone.keys * 16];
            let log_sum_exp = [log_sum_exp[query], log_sum_exp[200 + query]];
            let (mut dq, mut dkv) = (vec![f32::NAN; 8], vec![f32::NAN; seen.len()]);
            let (q, out, dout) = (&q[row.clone()], &out[row.clone()], &dout[row]);
            backend.cross_attention_backward(alone, q, seen, out, &log_sum_exp, dout, &mut dq, &mut dkv, &mut scratch);
            dq_apart.extend(dq.iter().map(|value| f64::from(*value)));
            dkv_apart
                .iter_mut()
                .zip(dkv)
                .for_each(|(sum, value)| *sum += f64::from(value));
        }
        assert_close("dq", &dq, &dq_apart, 1e-4);
        assert_close("dkv", &dkv, &dkv_apart, 1e-4);
    }
}

#[test]
fn an_embeddings_rows_and_their_gradients_which_add() {
    let (rows, cols) = ([2u32, 0, 2], 3);
    let (table, cotangent) = (random(4 * cols, 1), random(rows.len() * cols, 2));
    let gather = |table: &[f64]| -> Vec<f64> {
        let row = |row: &u32| table[*row as usize * cols..(*row as usize + 1) * cols].to_vec();
        rows.iter().flat_map(row).collect()
    };
    for backend in backends() {
        let mut y = vec![f32::NAN; rows.len() * cols];
        backend.gather_rows(&rows, cols, &single(&table), &mut y);
        assert_close("y", &y, &gather(&table), 1e-7);
        let mut dtable = vec![0.0; table.len()];
        backend.gather_rows_backward(&rows, cols, &single(&cotangent), &mut dtable);
        assert_close("dtable", &dtable, &differences(&table, &cotangent, gather), 1e-5);
    }
}
