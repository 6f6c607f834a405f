// The requests that run now, with a button that stops one.
export const Requests = () => null;
