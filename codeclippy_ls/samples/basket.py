"""A shopping basket."""

import json


class Basket:
    def __init__(self, owner, items=None):
        self.owner = owner
        self.items = items or []

    def add(self, name, price, count=1):
        self.items.append((name, price, count))

    def total(self):
        result = 0
        for name, price, count in self.items:
            result += price * count
        return result

    def names(self):
        return [name for name, price, count in self.items]

    def save(self, path):
        with open(path, "w") as file:
            json.dump(self.items, file)


def cheapest(basket, default=None):
    best = default
    for name, price, count in basket.items:
        if best is None or price < best:
            best = price
    return best
