//! Least squares with a penalty, on sparse rows: w, b minimise ‖y − Xw − b‖² + λ‖w‖².
//!
//! Solved by conjugate gradients on (X̄ᵀX̄ + λI) w = X̄ᵀȳ, X̄ and ȳ centred (Hestenes & Stiefel,
//! "Methods of conjugate gradients", 1952); the centring is applied to Xw, so X stays sparse, and b
//! carries no penalty. O(non-zeros) per step, a few dozen steps. Pure; called by the scorer.

/// Sparse rows: (column, value).
pub(super) type Rows = [Vec<(u32, f32)>];

/// Steps end when the residual is this share of where it began.
const TOLERANCE: f64 = 1e-5;
const MOST_STEPS: usize = 300;

/// The weights (one per column) and the constant. `columns` bounds every column in `rows`. Only
/// columns that a row has are solved for; the others weigh 0.
pub(super) fn solve(rows: &Rows, targets: &[f64], columns: usize, penalty: f64) -> (Vec<f64>, f64) {
    let mut used = vec![false; columns];
    rows.iter().flatten().for_each(|&(at, _)| used[at as usize] = true);
    let used: Vec<u32> = (0..columns as u32).filter(|&at| used[at as usize]).collect();
    let mut place = vec![0; columns];
    (0..).zip(&used).for_each(|(to, &from)| place[from as usize] = to);
    let close = |row: &Vec<(u32, f32)>| row.iter().map(|&(at, value)| (place[at as usize], value)).collect();
    let (found, constant) = descend(&rows.iter().map(close).collect::<Vec<_>>(), targets, used.len(), penalty);
    let mut weights = vec![0.0; columns];
    used.iter().zip(found).for_each(|(&at, weight)| weights[at as usize] = weight);
    (weights, constant)
}

fn descend(rows: &Rows, targets: &[f64], columns: usize, penalty: f64) -> (Vec<f64>, f64) {
    let mut weights = vec![0.0; columns];
    if rows.is_empty() {
        return (weights, 0.0);
    }
    let mut residual = transposed(rows, &centred(targets), columns);
    let mut direction = residual.clone();
    let mut left = dot(&residual, &residual);
    let enough = left * TOLERANCE * TOLERANCE;
    for _ in 0..MOST_STEPS {
        if left <= enough {
            break;
        }
        let mut image = transposed(rows, &centred(&times(rows, &direction)), columns);
        add(&mut image, penalty, &direction);
        let step = left / dot(&direction, &image);
        add(&mut weights, step, &direction);
        add(&mut residual, -step, &image);
        let now = dot(&residual, &residual);
        let keep = now / left;
        for (old, new) in direction.iter_mut().zip(&residual) {
            *old = new + keep * *old;
        }
        left = now;
    }
    let constant = mean(targets) - mean(&times(rows, &weights));
    (weights, constant)
}

fn times(rows: &Rows, vector: &[f64]) -> Vec<f64> {
    let one = |row: &Vec<(u32, f32)>| row.iter().map(|&(at, value)| f64::from(value) * vector[at as usize]).sum();
    rows.iter().map(one).collect()
}

fn transposed(rows: &Rows, vector: &[f64], columns: usize) -> Vec<f64> {
    let mut sums = vec![0.0; columns];
    for (row, factor) in rows.iter().zip(vector) {
        for &(at, value) in row {
            sums[at as usize] += f64::from(value) * factor;
        }
    }
    sums
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn centred(values: &[f64]) -> Vec<f64> {
    let mean = mean(values);
    values.iter().map(|value| value - mean).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(to: &mut [f64], factor: f64, what: &[f64]) {
    for (to, what) in to.iter_mut().zip(what) {
        *to += factor * what;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One column: w = Σ x̄ȳ / (Σ x̄² + λ), b = mean(y) − w·mean(x).
    #[test]
    fn one_column_equals_the_closed_form() {
        let rows: Vec<Vec<(u32, f32)>> = [1.0, 2.0, 3.0, 6.0].map(|x| vec![(0, x)]).into();
        let (weights, constant) = solve(&rows, &[1.0, 3.0, 2.0, 8.0], 1, 0.5);
        // mean x = 3, mean y = 3.5; Σ x̄ȳ = 5 + .5 + 0 + 13.5 = 19; Σ x̄² = 14
        assert!((weights[0] - 19.0 / 14.5).abs() < 1e-9);
        assert!((constant - (3.5 - 3.0 * 19.0 / 14.5)).abs() < 1e-9);
    }

    /// Two columns, solved by hand with the inverse of a 2 × 2 matrix.
    #[test]
    fn two_columns_equal_the_closed_form() {
        let rows: Vec<Vec<(u32, f32)>> =
            vec![vec![(0, 1.0)], vec![(1, 1.0)], vec![(0, 1.0), (1, 2.0)], vec![(0, -2.0), (1, -3.0)]];
        let (weights, constant) = solve(&rows, &[1.0, 2.0, 5.0, -8.0], 2, 1.0);
        // The columns' means are 0 and so is y's: XᵀX + I = [7 8; 8 15], Xᵀy = [22, 36], determinant 41.
        assert!((weights[0] - (15.0 * 22.0 - 8.0 * 36.0) / 41.0).abs() < 1e-9);
        assert!((weights[1] - (7.0 * 36.0 - 8.0 * 22.0) / 41.0).abs() < 1e-9);
        assert!(constant.abs() < 1e-9);
    }

    #[test]
    fn targets_that_do_not_vary_need_only_the_constant() {
        let rows: Vec<Vec<(u32, f32)>> = vec![vec![(0, 1.0)], vec![(1, 1.0)], vec![]];
        assert_eq!(solve(&rows, &[0.25; 3], 2, 1.0), (vec![0.0, 0.0], 0.25));
        assert_eq!(solve(&[], &[], 1, 1.0), (vec![0.0], 0.0));
    }
}
