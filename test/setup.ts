import fc from 'fast-check';

/** VIOMMU_SEED fixes what the property tests draw, so that CI judges the change and not the dice; without it every run draws anew. */
const seed = process.env['VIOMMU_SEED'];
if (seed !== undefined) fc.configureGlobal({ ...fc.readConfigureGlobal(), seed: Number(seed) });
