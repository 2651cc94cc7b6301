export { Type1Host } from './host.ts';
export type { Type1Info } from './info.ts';
export { Type1Space } from './space.ts';
