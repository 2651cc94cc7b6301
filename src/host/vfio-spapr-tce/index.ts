export { TceHost } from './host.ts';
export { TceSpace } from './space.ts';
export type { TceRequirements, TceWindow, WindowWish } from './windows.ts';
