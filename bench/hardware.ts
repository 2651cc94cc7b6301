import { smmuv3, vtd } from '../src/host/sim/index.ts';

/** Simulated hardware that takes first stages. */
export const hardwares = { vtd: () => vtd(), smmuv3: () => smmuv3(), 'smmuv3-cmdqv': () => smmuv3({ tegra241: {} }) };

export type Hardware = keyof typeof hardwares;

/** Paths that follow what their guest means, each with hardware that it serves on, slowest first. */
export const followingPaths: readonly (readonly [path: string, hardware: Hardware])[] = [
  ['shadow', 'vtd'],
  ['user-owned', 'vtd'],
  ['user-owned', 'smmuv3'],
  ['user-owned-queue', 'smmuv3-cmdqv'],
];
