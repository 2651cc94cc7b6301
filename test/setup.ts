import fc from 'fast-check';

/**
 * A `maxLength` that a property states is what it draws up to: fast-check's default size would end at ten elements, and long programs
 * are what the properties are for. VIOMMU_SEED fixes what is drawn, so that CI judges the change and not the dice; without it every run
 * draws anew.
 */
const seed = process.env['VIOMMU_SEED'];
fc.configureGlobal({
  ...fc.readConfigureGlobal(),
  defaultSizeToMaxWhenMaxSpecified: true,
  ...(seed !== undefined && { seed: Number(seed) }),
  // For a mutant it is enough to know that a property fails; the smallest program takes long.
  endOnFailure: process.env['VIOMMU_MUTATION_TESTS'] !== undefined,
});
