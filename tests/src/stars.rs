//! The sums of stars, held against the reviews they are of.

use sqlx::PgPool;

/// What is not as the public reviews say, wherever it is kept; nothing when every sum is exact. Each query looks at one
/// moment, so it may be asked while reviews are being published.
///
/// # Errors
/// Postgres refused.
pub async fn wrong_sums(pool: &PgPool) -> Result<Vec<String>, sqlx::Error> {
    let mut wrong = Vec::new();
    for query in [
        "SELECT format('property %s has %s reviews of %s hundredths, and there are %s of %s', id, review_count, rating_hundredths, there, mean)
         FROM properties, LATERAL (
             SELECT count(*)::int AS there, coalesce(round(avg(overall) * 100), 0)::int AS mean FROM reviews
             WHERE property_id = properties.id AND side = 'guest' AND published_at IS NOT NULL AND hidden_at IS NULL) AS public
         WHERE (review_count, rating_hundredths) IS DISTINCT FROM (there, mean)",
        "SELECT format('%s %s has %s times %s stars for %s, and there are %s', r.subject, r.subject_id, counts[star], star, category, there)
         FROM ratings AS r, generate_series(1, 5) AS star,
             LATERAL (VALUES
                 ('overall', r.overall::int[]), ('cleanliness', r.cleanliness::int[]), ('accuracy', r.accuracy::int[]),
                 ('check_in', r.check_in::int[]), ('communication', r.communication::int[]), ('location', r.location::int[]),
                 ('value', r.value::int[])) AS kept (category, counts),
             LATERAL (
                 SELECT count(*) AS there FROM reviews AS v
                 WHERE published_at IS NOT NULL AND hidden_at IS NULL
                   AND CASE r.subject WHEN 'property' THEN side = 'guest' AND property_id = r.subject_id
                       WHEN 'host' THEN side = 'guest' AND v.subject_id = r.subject_id
                       ELSE side = 'host' AND v.subject_id = r.subject_id END
                   AND (to_jsonb(v)->>category)::int = star) AS public
         WHERE counts[star] <> there",
        "SELECT format('review %s is not counted for its %s', v.id, what)
         FROM reviews AS v, LATERAL (VALUES ('property', property_id), ('host', v.subject_id), ('guest', v.subject_id)) AS due (what, whom)
         WHERE published_at IS NOT NULL AND (side = 'guest') = (what <> 'guest')
           AND NOT EXISTS (SELECT FROM ratings WHERE subject = what AND subject_id = whom)",
    ] {
        wrong.extend(sqlx::query_scalar::<_, String>(query).fetch_all(pool).await?);
    }
    Ok(wrong)
}
