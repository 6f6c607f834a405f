-- Checks a key's limits and reserves what a request may use, in one step. See redis.py.
-- KEYS: window, leases, budgets. ARGV: process, lease, requests a minute, tokens a minute, concurrent requests,
-- total tokens, total cost (-1: no limit), prompt, least, most, price of prompt and of answer, tokens and cost
-- used before (-1: not known), prefix of the processes' keys, how long a process's key lives (ms).
-- Returns reason ("": granted), tokens of the answer, requests left, tokens left, their resets, retry.
local WINDOW = 60
local window, leases, budgets = KEYS[1], KEYS[2], KEYS[3]
local process, lease, living = ARGV[1], ARGV[2], ARGV[15]
local max_requests, max_tokens, max_running = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local total_tokens, total_cost = tonumber(ARGV[6]), tonumber(ARGV[7])
local prompt, least, most = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
local prompt_price, answer_price = tonumber(ARGV[11]), tonumber(ARGV[12])

local time = redis.call('TIME')
local second, now = tonumber(time[1]), tonumber(time[1]) + tonumber(time[2]) / 1000000
local has_budget = redis.call('EXISTS', budgets) == 1
redis.call('SET', living .. process, '1', 'PX', ARGV[16])

-- Leases of dead processes are given back; marks of settled ones are dropped after a while.
local running, mine, held_tokens, held_cost = 0, nil, 0, 0
local held = redis.call('HGETALL', leases)
for i = 1, #held, 2 do
  local at, tokens, cost, owner = string.match(held[i + 1], '^(%d+):(%-?%d+):(%-?%d+):(.*)$')
  if owner == '' then
    if tonumber(at) < second - 2 * WINDOW then redis.call('HDEL', leases, held[i]) end
  elseif redis.call('EXISTS', living .. owner) == 0 then
    redis.call('HDEL', leases, held[i])
    if redis.call('HEXISTS', window, 't' .. at) == 1 then
      redis.call('HINCRBY', window, 't' .. at, -tonumber(tokens))
    end
    if has_budget then
      redis.call('HINCRBY', budgets, 'tokens', -tonumber(tokens))
      redis.call('HINCRBY', budgets, 'cost', -tonumber(cost))
    end
  else
    running, held_tokens, held_cost = running + 1, held_tokens + tonumber(tokens), held_cost + tonumber(cost)
    if held[i] == lease then mine = tonumber(tokens) end
  end
end

-- Where the clock was set back, what came later than now counts as if it came now: not until the clock is there.
local function moved(kind, at)
  local count = redis.call('HGET', window, kind .. at)
  if count then redis.call('HINCRBY', window, kind .. second, count) end
  redis.call('HDEL', window, kind .. at)
end
for _, name in ipairs(redis.call('HKEYS', window)) do
  local at = string.sub(name, 2)
  if string.sub(name, 1, 1) == 'e' and tonumber(at) > second + 1 then
    moved('r', at)
    moved('t', at)
    redis.call('HDEL', window, name)
    redis.call('HSET', window, 'e' .. second, string.format('%.6f', now))
  end
end

local slices, requests, tokens = {}, 0, 0
local counted = redis.call('HGETALL', window)
-- A second counts until the last of it (field "e") is a minute old.
local last = {}
for i = 1, #counted, 2 do
  if string.sub(counted[i], 1, 1) == 'e' then
    last[tonumber(string.sub(counted[i], 2))] = tonumber(counted[i + 1])
  end
end
local function left(at)
  return math.max(0, math.min(WINDOW, (last[at] or at + 1) + WINDOW - now))
end
for i = 1, #counted, 2 do
  local kind, at = string.sub(counted[i], 1, 1), tonumber(string.sub(counted[i], 2))
  local count = tonumber(counted[i + 1])
  if left(at) <= 0 then
    redis.call('HDEL', window, counted[i])
  elseif kind ~= 'e' then
    if kind == 'r' then requests = requests + count else tokens = tokens + count end
    if count > 0 then table.insert(slices, {at, kind, count}) end
  end
end
table.sort(slices, function(a, b) return a[1] < b[1] end)

local function reset(kind)
  for i = #slices, 1, -1 do
    if slices[i][2] == kind then return left(slices[i][1]) end
  end
  return 0
end

local function free(kind, excess)
  for _, slice in ipairs(slices) do
    if slice[2] == kind then
      excess = excess - slice[3]
      if excess <= 0 then return left(slice[1]) end
    end
  end
  return WINDOW
end

local function result(reason, answer, retry)
  return {reason, tostring(answer), tostring(max_requests - requests), tostring(max_tokens - tokens),
    tostring(reset('r')), tostring(reset('t')), tostring(retry)}
end

if mine ~= nil then return result('', mine - prompt, 0) end  -- the reply of this very call was lost

local needs_budget = total_tokens >= 0 or total_cost >= 0
if needs_budget and not has_budget then
  if tonumber(ARGV[13]) < 0 then return {'seed'} end
  -- what runs since before the key had a budget settles against it, too
  redis.call('HSET', budgets, 'tokens', string.format('%.0f', tonumber(ARGV[13]) + held_tokens),
    'cost', string.format('%.0f', tonumber(ARGV[14]) + held_cost))
  has_budget = true
end

local answer, needed = most, prompt + least
if max_running >= 0 and running >= max_running then return result('concurrent', 0, 1) end
if max_requests >= 0 and requests >= max_requests then
  return result('requests', 0, free('r', requests - max_requests + 1))
end
if max_tokens >= 0 then
  if needed > max_tokens then return result('size', 0, 0) end
  local left = max_tokens - tokens
  if needed > left then return result('tokens', 0, free('t', needed - left)) end
  answer = math.min(answer, left - prompt)
end
if total_tokens >= 0 then
  local left = total_tokens - tonumber(redis.call('HGET', budgets, 'tokens'))
  if needed > left then return result('total_tokens', 0, 0) end
  answer = math.min(answer, left - prompt)
end
if total_cost >= 0 then
  local left = total_cost - tonumber(redis.call('HGET', budgets, 'cost'))
  if left <= 0 or prompt * prompt_price + least * answer_price > left then return result('total_cost', 0, 0) end
  if answer_price > 0 then
    answer = math.min(answer, math.floor((left - prompt * prompt_price) / answer_price))
  end
end

local reserved, cost = prompt + answer, prompt * prompt_price + answer * answer_price
redis.call('HINCRBY', window, 'r' .. second, 1)
redis.call('HINCRBY', window, 't' .. second, string.format('%.0f', reserved))
redis.call('HSET', window, 'e' .. second, string.format('%.6f', now))
last[second] = now
redis.call('EXPIRE', window, 2 * WINDOW)
redis.call('HSET', leases, lease, string.format('%d:%.0f:%.0f:%s', second, reserved, cost, process))
redis.call('EXPIRE', leases, 86400)
if has_budget then
  redis.call('HINCRBY', budgets, 'tokens', string.format('%.0f', reserved))
  redis.call('HINCRBY', budgets, 'cost', string.format('%.0f', cost))
  redis.call('EXPIRE', budgets, 2592000)
end
requests, tokens = requests + 1, tokens + reserved
table.insert(slices, {second, 'r', 1})
if reserved > 0 then table.insert(slices, {second, 't', reserved}) end
return result('', answer, 0)
