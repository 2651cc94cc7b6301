/** What `npm run bench -- scale` sweeps, one name a part. */
export const SCALE_PARTS = ['spaces', 'mappings', 'size'] as const;
